"""Trains the student faster, and leaves it as it is for everybody else."""

from collections.abc import Callable

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from ...models.data_preprocessors import BatchPreprocessor
from ...utils.compiling import compiled
from ...utils.errors import describe
from ...utils.model import unwrap

KEY = 'default_hooks.student_runtime'


@HOOKS.register_module()
class StudentRuntimeHook(Hook):
    """Train with channels-last memory and a compiled backbone.

    Of a distillation algorithm it is the student, of a plain classifier the
    classifier. The compiled form exists within training steps alone: names of
    weights, checkpoints, validation, extraction and averages of weights see a plain
    module, and a run may be resumed with or without the hook. Smaller batches
    than those before (the last of an epoch) are not compiled.

    Results are those of other kernels, equal up to rounding. For bf16 write
    ``optim_wrapper.type='AmpOptimWrapper'`` or ``tools/train.py --amp``. Write
    ``default_hooks=dict(student_runtime=dict(type='StudentRuntimeHook'))``.

    Args:
        channels_last (bool): Use that memory format. Defaults to True.
        compile (bool): Compile the backbone with ``torch.compile``, which takes up to
            a minute at the first step. Defaults to True.
        cuda_graphs (bool): Record what is compiled as CUDA graphs, which pays where a
            GPU waits for launches (small nets and batches). Not with accumulated
            gradients, which would be overwritten; without effect on a CPU. Defaults
            to False.
        connectors (bool): Compile the distiller's connectors as well, which pays where
            they take much of a step (ReviewKD). Never as CUDA graphs; without effect
            on a plain classifier. Defaults to False.

    Raises:
        ValueError: the config's ``compile`` asks mmengine to compile as well,
            gradients are accumulated under ``cuda_graphs``, or ``connectors`` is set
            without ``compile``.
    """

    def __init__(
        self,
        channels_last: bool = True,
        compile: bool = True,
        cuda_graphs: bool = False,
        connectors: bool = False,
    ) -> None:
        if connectors and not compile:
            raise ValueError(
                describe(
                    f'{KEY}.connectors',
                    connectors,
                    f'It compiles connectors, and {KEY}.compile=False nothing.',
                    'Remove one of the two.',
                )
            )
        self.channels_last = channels_last
        self.compile = compile
        self.cuda_graphs = cuda_graphs
        self.connectors = connectors
        self._size = 0
        self._fast: dict[nn.Module, Callable] = {}

    def before_train(self, runner) -> None:
        """Prepare the net, once it is on its device and has its weights."""
        if self.compile and runner.cfg.get('compile'):
            raise ValueError(
                describe(
                    'compile',
                    runner.cfg['compile'],
                    f'`{KEY}.compile` compiles the backbone, and this the whole model.',
                    f'Remove it, or write {KEY}.compile=False.',
                )
            )
        counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if self.cuda_graphs and counts > 1:
            raise ValueError(
                describe(
                    f'{KEY}.cuda_graphs',
                    True,
                    'The next step would overwrite the gradients that '
                    f'optim_wrapper.accumulative_counts={counts} keeps.',
                    'Remove one of the two.',
                )
            )
        model = unwrap(runner.model)
        net = getattr(model, 'student', model)
        if self.channels_last:
            net.to(memory_format=torch.channels_last)
            if isinstance(model.data_preprocessor, BatchPreprocessor):
                model.data_preprocessor.channels_last = True
        if self.compile:
            options = dict(mode='reduce-overhead') if self.cuda_graphs else {}
            self._fast = {
                net.backbone: compiled(
                    net.backbone._call_impl, f'{KEY}.compile', **options
                )
            }
        if self.connectors and hasattr(model, 'distiller'):
            for connector in model.distiller.connectors.values():
                form = compiled(connector._call_impl, f'{KEY}.connectors')
                self._fast[connector] = form

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Put the compiled form in."""
        size = len(data_batch['inputs'])
        # A run resumed at the last batch of an epoch begins with a small one.
        self._size = max(self._size, size)
        if size == self._size:
            for module, form in self._fast.items():
                module._compiled_call_impl = form

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        """Take it out again."""
        for module in self._fast:
            module._compiled_call_impl = None
