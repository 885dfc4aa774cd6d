"""A frozen teacher, run as fast as a machine can."""

import logging
import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from itertools import chain
from numbers import Real

import torch
from mmengine.logging import print_log
from mmrazor.models.task_modules.recorder import (
    ModuleInputsRecorder,
    ModuleOutputsRecorder,
    ParameterRecorder,
)
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...utils.compiling import compiled
from ...utils.errors import describe, nearest
from .folding import fold_batchnorm
from .half_precision import speedup
from .memo import TeacherMemo
from .tapped import TappedNet, hooked, replay, tensors_of, without_hooks

KEY = 'model.teacher_runtime'
PAYS = 1.2  # times as fast in half precision as in float32, below which it does not
MEMO = f'{KEY}.memo_gb'
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)
# Recorders that hooks tell, or that need no forward pass.
TOLD = (ModuleInputsRecorder, ModuleOutputsRecorder, ParameterRecorder)
# Largest deviation from the plain teacher, relative to its largest value.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 0.05}


class TeacherRuntime:
    """Runs a copy of the teacher that is made for speed, and tells its hooks.

    The teacher itself stays as it is, with its names, weights and hooks; recorders
    are handed what the copy's modules took and gave. In the first step both run, and
    training stops if they differ by more than 1e-4 of the largest value (float32;
    half precision: 0.05 for float16, 0.2 for bfloat16), in the output or in anything
    that is recorded. Smaller batches than those before (the last of an epoch) run
    the copy without compilation. A warning says where half precision does
    not pay.

    Args:
        fold_batchnorm (bool): Fold normalisation into the convolution before it,
            wherever nothing looks between the two. Defaults to True.
        channels_last (bool): Use that memory format. Defaults to True.
        compile (bool): Compile with ``torch.compile``: weights frozen into the code
            on a CPU, CUDA graphs on a GPU. Defaults to True.
        dtype (str): ``'float32'``, ``'bfloat16'`` or ``'float16'`` to compute in;
            ``'auto'`` is what autocast asks for, float32 without it. Normalisation
            that is not folded keeps float32. Defaults to ``'auto'``.
        memo_gb (float): Memory for a :class:`TeacherMemo`, GiB: a view of an image
            that comes again is not run again. For losses between logits alone, and
            resident data, which numbers the views; of several ranks each has its own.
            Defaults to 0.0 (none).

    Raises:
        ValueError: a setting is out of range; later, the copy's output differs, or
            something a memo does not keep is recorded.
    """

    def __init__(
        self,
        fold_batchnorm: bool = True,
        channels_last: bool = True,
        compile: bool = True,
        dtype: str = 'auto',
        memo_gb: float = 0.0,
    ) -> None:
        if dtype != 'auto' and dtype not in DTYPES:
            raise ValueError(
                describe(
                    f'{KEY}.dtype',
                    dtype,
                    'A teacher does not compute in that.',
                    f"Write 'auto' or one of {sorted(DTYPES)}.",
                )
            )
        if not (isinstance(memo_gb, Real) and 0 <= memo_gb < math.inf):
            raise ValueError(
                describe(
                    MEMO, memo_gb, 'It counts GiB.', 'Write 2.0, say, or 0 for no memo.'
                )
            )
        self.fold_batchnorm = fold_batchnorm
        self.channels_last = channels_last
        self.compile = compile
        self.dtype = dtype
        self.memo_gb = memo_gb
        self.reset()

    def reset(self) -> None:
        """Forget the copy, because the teacher has changed."""
        self._eager: TappedNet | None = None
        self._memo = TeacherMemo(self.memo_gb) if self.memo_gb else None

    def __deepcopy__(self, memo) -> 'TeacherRuntime':
        """Copy the settings; what is compiled belongs to one teacher."""
        return type(self)(**self.settings())

    def __getstate__(self) -> dict:
        return self.settings()

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def settings(self) -> dict:
        """Return the arguments."""
        names = ('fold_batchnorm', 'channels_last', 'compile', 'dtype', 'memo_gb')
        return {name: getattr(self, name) for name in names}

    @torch.no_grad()
    def __call__(
        self,
        teacher: nn.Module,
        inputs: Tensor,
        recorders: Iterable,
        data_samples: Sequence | None = None,
    ) -> None:
        """Run the teacher on images (N, C, H, W), for its hooks alone.

        Args:
            teacher (nn.Module): In eval mode.
            inputs (Tensor): Images, in float32.
            recorders (Iterable): mmrazor's, recording; they are emptied between the
                first step's two runs.
            data_samples (Sequence, optional): The images' :class:`LabelBatch`, of
                which a memo needs the views.

        Raises:
            ValueError: the copy's output differs from the teacher's, or a memo is not
                told the views.
        """
        if self._is_outdated(inputs):
            self._check(teacher, inputs, list(recorders))
        if self._memo is None:
            _, calls = self._run(inputs)
        else:
            calls = [('head', (), self._remembered(inputs, data_samples))]
        replay(teacher, calls)

    def _is_outdated(self, inputs: Tensor) -> bool:
        """Whether there is no copy, or one for other hooks or for smaller batches.

        A run resumed at the last batch of an epoch begins with a small one.
        """
        if self._eager is None or self._count_hooks() != self._hooks:
            return True
        return len(inputs) > self._shape[0]

    def _remembered(self, inputs: Tensor, data_samples: Sequence | None) -> Tensor:
        """Return the logits, of unknown views by running the teacher on them."""
        numbers = getattr(data_samples, 'view_idx', None)
        if numbers is None:
            kind = type(data_samples).__name__
            problem = f'The views of the images are not known ({kind}).'
            remedy = 'Write train_cfg.resident=True, without mixup, or memo_gb=0.'
            raise ValueError(describe(MEMO, self.memo_gb, problem, remedy))
        views = torch.from_numpy(numbers).to(inputs.device)
        places = self._memo.find(views)
        unknown = (places < 0).nonzero().squeeze(1)
        if not len(unknown):
            return self._memo.recall(places)
        some = len(unknown) < len(views)
        fresh, _ = self._run(inputs[unknown] if some else inputs)
        self._memo.keep(views[unknown], fresh)
        if not some:
            return fresh
        logits = self._memo.recall(places.clamp(min=0))
        logits[unknown] = fresh
        return logits

    def _run(self, inputs: Tensor) -> tuple[Tensor, list]:
        same = inputs.shape == self._shape
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if same and inputs.is_cuda and self.compile:
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(inputs.device.type, enabled=False):
            return (self._fast if same else self._eager)(inputs)

    def _count_hooks(self) -> int:
        return sum(map(len, self._hook_lists))

    def _check(self, teacher: nn.Module, inputs: Tensor, recorders: list) -> None:
        """Make the copy and compare it with the teacher."""
        self._hook_lists = [
            hooks
            for module in teacher.modules()
            for hooks in (module._forward_hooks, module._forward_pre_hooks)
        ]
        self._hooks = self._count_hooks()
        self._shape = inputs.shape
        dtype = self._dtype(inputs)
        with torch.random.fork_rng(devices=[]):
            names = hooked(teacher)
            if self._memo is not None:
                _check_memo(names, recorders)
            expected = _run_plain(teacher, inputs, names)
            for recorder in recorders:
                if recorder.data_buffer:
                    recorder.get_record_data()  # fails where it always fails
                recorder.reset_data_buffer()
            self._eager = self._build(teacher, inputs, names, dtype)
            self._fast = self._compiled(inputs)
            found = self._run(inputs)
        self._compare(expected, found, dtype)

    def _dtype(self, inputs: Tensor) -> torch.dtype:
        if self.dtype != 'auto':
            return DTYPES[self.dtype]
        kind = inputs.device.type
        if kind == 'cuda':
            active, dtype = torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()
        else:
            active = torch.is_autocast_cpu_enabled()
            dtype = torch.get_autocast_cpu_dtype()
        return dtype if active else torch.float32

    def _build(
        self, teacher: nn.Module, inputs: Tensor, names: set[str], dtype: torch.dtype
    ) -> TappedNet:
        net = without_hooks(_copy(teacher))
        if self.fold_batchnorm:
            few = inputs[:2]
            _, kept = fold_batchnorm(net, lambda net: net(few, mode='tensor'), names)
            if kept:
                print_log(
                    f'{KEY}: {", ".join(kept)} cannot be folded, since a recorder '
                    'looks at it or at what it gets. All else is.',
                    'current',
                )
        if dtype != torch.float32:
            _warn_if_slow(dtype, inputs.device)
            net.to(dtype)
            for module in net.modules():
                if isinstance(module, _BatchNorm):
                    module.float()
        if self.channels_last:
            net.to(memory_format=torch.channels_last)
        return TappedNet(net, names, dtype)

    def _compiled(self, inputs: Tensor):
        if not self.compile:
            return self._eager
        options = {'triton.cudagraphs': True} if inputs.is_cuda else {'freezing': True}
        return compiled(self._eager, f'{KEY}.compile', options=options, dynamic=False)

    def _compare(self, expected, found, dtype: torch.dtype) -> None:
        """Refuse a copy that is another net."""
        worst = 0.0
        for plain, fast in zip(tensors_of(expected), tensors_of(found), strict=True):
            if plain.is_floating_point() and plain.numel():
                scale = plain.abs().amax().clamp(min=torch.finfo(plain.dtype).tiny)
                # nan would be lost in a maximum
                off = ((fast - plain).abs().amax() / scale).nan_to_num(float('inf'))
                worst = max(worst, off.item())
        print_log(
            f'The fast teacher computes in {dtype}; it differs from the plain one by '
            f'{worst:.1e} of the largest value at most.',
            'current',
        )
        if worst > TOLERANCE[dtype]:
            raise ValueError(
                describe(
                    KEY,
                    self.settings(),
                    f'The fast teacher differs by {worst:.1e} of the largest value '
                    f'from the plain one, and may by {TOLERANCE[dtype]:.0e}.',
                    'Set fold_batchnorm=False, then compile=False, to see which part '
                    'this teacher does not bear, or remove the key.',
                )
            )


def build_runtime(settings: dict) -> TeacherRuntime:
    """Return the runtime of ``model.teacher_runtime``.

    Raises:
        ValueError: it has a key that there is not, or a wrong value.
    """
    known = TeacherRuntime().settings()
    for name in settings:
        if name not in known:
            raise ValueError(
                describe(
                    f'{KEY}.{name}',
                    settings[name],
                    f'There is no such setting; like it: {nearest(name, known)}.',
                    'Correct or remove it.',
                )
            )
    return TeacherRuntime(**settings)


def check_reach(distiller: nn.Module, teacher_mode: str) -> None:
    """Refuse what looks into the teacher by other means than hooks of its modules.

    Args:
        distiller (nn.Module): With the teacher's recorders, and deliveries.
        teacher_mode (str): How the teacher is run.

    Raises:
        ValueError: naming the recorder, the delivery or the mode.
    """
    remedy = f'Remove `{KEY}`, or tap a module (ModuleOutputs, Tap).'
    for name, recorder in distiller.teacher_recorders.recorders.items():
        if not isinstance(recorder, TOLD):
            kind = type(recorder).__name__.removesuffix('Recorder')
            key = f'model.distiller.teacher_recorders.{name}.type'
            problem = 'It patches functions, which the fast teacher does not call.'
            raise ValueError(describe(key, kind, problem, remedy))
    for name in distiller.deliveries.deliveries:
        key = f'model.distiller.distill_deliveries.{name}'
        problem = 'Deliveries do not reach into the fast teacher.'
        raise ValueError(describe(key, '(set)', problem, f'Remove `{KEY}`.'))
    if teacher_mode != 'tensor':
        problem = 'The fast teacher computes no loss of its own.'
        raise ValueError(describe('model.teacher_mode', teacher_mode, problem, remedy))


def _warn_if_slow(dtype: torch.dtype, device: torch.device) -> None:
    """Say that half precision does not pay, if so."""
    ratio = speedup(dtype, device)
    if ratio < PAYS:
        name = str(dtype).removeprefix('torch.')
        problem = (
            f'A convolution is {ratio:.1f} times as fast in it as in float32 here.'
        )
        remedy = "Write dtype='float32', which is exact as well."
        text = describe(f'{KEY}.dtype', name, problem, remedy)
        print_log(text, 'current', logging.WARNING)


def _check_memo(names: set[str], recorders: list) -> None:
    """Refuse a recorder of anything but the logits."""
    others = [
        recorder.source
        for recorder in recorders
        if not isinstance(recorder, ParameterRecorder)
        and (type(recorder) is not ModuleOutputsRecorder or recorder.source != 'head')
    ]
    if others or names != {'head'}:
        problem = f'A memo keeps logits, but {others or sorted(names)} is recorded.'
        remedy = 'Write 0, or use a loss between the outputs of the whole head alone.'
        raise ValueError(describe(MEMO, '(set)', problem, remedy))


def _run_plain(
    teacher: nn.Module, inputs: Tensor, names: set[str]
) -> tuple[Tensor, list]:
    """Run the teacher itself, in float32, for its hooks and for comparison."""
    tapped = TappedNet(teacher, names, torch.float32)
    try:
        with torch.autocast(inputs.device.type, enabled=False):
            return tapped(inputs)
    finally:
        tapped.untap()


def _copy(teacher: nn.Module) -> nn.Module:
    """Return a copy whose hooks' owners (recorders) are not copied with it."""
    hooks = {
        id(hook): hook
        for module in teacher.modules()
        for hook in chain(
            module._forward_hooks.values(), module._forward_pre_hooks.values()
        )
    }
    return deepcopy(teacher, hooks)
