"""Trains the student faster without a change to what others see of it."""

from collections.abc import Callable

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from ...datasets.views import images_in
from ...models.data_preprocessors import BatchPreprocessor
from ...utils.compiling import compiled
from ...utils.errors import describe
from ...utils.model import trunk_of, unwrap

KEY = 'default_hooks.student_runtime'


@HOOKS.register_module()
class StudentRuntimeHook(Hook):
    """Train with channels-last memory and a compiled backbone.

    The net is the student of a distillation algorithm, or a plain classifier. The
    compiled form exists in training steps only, so that checkpoints, validation,
    extraction and averages of weights see a plain module, and a run may be resumed with
    or without the hook. A batch smaller than those before (the last of an epoch) runs
    eagerly. Results equal those without the hook up to rounding. Write
    ``default_hooks=dict(student_runtime=dict(type='StudentRuntimeHook'))``, and for
    bf16 ``optim_wrapper.type='AmpOptimWrapper'`` or ``tools/train.py --amp``.

    Args:
        channels_last (bool): Use that memory format. Defaults to True.
        compile (bool): Compile the backbone with ``torch.compile``, which takes up to
            a minute at the first step. Defaults to True.
        cuda_graphs (bool): Record the compiled backbone as CUDA graphs, which pays
            where a GPU waits for launches (small nets and batches). It has no effect
            on a CPU. Defaults to False.
        connectors (bool): Compile the distiller's connectors too, never as CUDA
            graphs, which pays where they take much of a step (ReviewKD). It has no
            effect on a plain classifier. Defaults to False.

    Raises:
        ValueError: the config's ``compile`` asks mmengine to compile as well,
            gradients are accumulated under ``cuda_graphs``, which would overwrite
            them, or ``connectors`` is set without ``compile``.
    """

    def __init__(
        self,
        channels_last: bool = True,
        compile: bool = True,
        cuda_graphs: bool = False,
        connectors: bool = False,
    ) -> None:
        if connectors and not compile:
            problem = f'It compiles connectors, and {KEY}.compile=False nothing.'
            key, remedy = f'{KEY}.connectors', 'Remove one of the two.'
            raise ValueError(describe(key, connectors, problem, remedy))
        self.channels_last = channels_last
        self.compile = compile
        self.cuda_graphs = cuda_graphs
        self.connectors = connectors
        self._size = 0  # of the largest batch
        self._compiled: dict[nn.Module, Callable] = {}

    def before_train(self, runner) -> None:
        """Prepare the net, once it is on its device and has its weights."""
        if self.compile and runner.cfg.get('compile'):
            problem = (
                f'`{KEY}.compile` compiles the backbone, and this the whole model.'
            )
            remedy = f'Remove it, or write {KEY}.compile=False.'
            raise ValueError(
                describe('compile', runner.cfg['compile'], problem, remedy)
            )
        counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if self.cuda_graphs and counts > 1:
            problem = (
                'The next step would overwrite the gradients that '
                f'optim_wrapper.accumulative_counts={counts} keeps.'
            )
            key, remedy = f'{KEY}.cuda_graphs', 'Remove one of the two.'
            raise ValueError(describe(key, True, problem, remedy))
        model = unwrap(runner.model)
        net = getattr(model, 'student', model)
        if self.channels_last:
            net.to(memory_format=torch.channels_last)
            if isinstance(model.data_preprocessor, BatchPreprocessor):
                model.data_preprocessor.channels_last = True
        if self.compile:
            options: dict = dict(mode='reduce-overhead') if self.cuda_graphs else {}
            trunk = trunk_of(net)
            form = compiled(trunk._call_impl, f'{KEY}.compile', **options)
            self._compiled = {trunk: form}
        if self.connectors and hasattr(model, 'distiller'):
            for connector in model.distiller.connectors.values():
                form = compiled(connector._call_impl, f'{KEY}.connectors')
                self._compiled[connector] = form

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Let the modules run their compiled form."""
        size = len(images_in(data_batch))
        # It may grow, because a resumed run may begin with the last batch of an epoch.
        self._size = max(self._size, size)
        if size == self._size:
            for module, form in self._compiled.items():
                module._compiled_call_impl = form

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        """Let the modules run eagerly again."""
        for module in self._compiled:
            module._compiled_call_impl = None
