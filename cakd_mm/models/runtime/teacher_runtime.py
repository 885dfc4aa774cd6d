"""A frozen teacher, run as fast as a machine can."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
import torch._inductor.config
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
from .half_precision import speedup
from .tapped import TappedNet, copy_without_hooks, floats_of, hooks_of, replay

KEY = 'model.teacher_runtime'
PAYS = 1.2  # times as fast in half precision as in float32, below which it does not
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)
# Recorders that hooks tell, or that need no forward pass.
TOLD = (ModuleInputsRecorder, ModuleOutputsRecorder, ParameterRecorder)
# Largest deviation from the plain teacher, relative to its largest value.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 0.05}
# Settings of earlier versions, and what to write instead of them.
GONE = dict(
    fold_batchnorm='compile=True, the default, folds normalisation by itself. '
    'Remove the key, or write compile=False for layers as they are',
    channels_last='compile=True, the default, chooses the memory format by itself. '
    'Remove the key',
    memo_gb='The teacher is run on every image of every step. Remove the key',
)


class TeacherRuntime:
    """Runs a compiled copy of the teacher, and tells the teacher's hooks.

    The teacher itself stays as it is, with its names, weights and hooks; recorders
    are handed what the copy's modules took and gave. In the first step both run, and
    training stops if they differ by more than 1e-4 of the largest value (float32;
    half precision: 0.05 for float16, 0.2 for bfloat16), in the output or in anything
    that is recorded. TF32 is off in this comparison, since it alone may differ by
    more. Smaller batches than those before (the last of an epoch) run the copy
    without compilation. A warning says where half precision does not pay.

    Args:
        compile (bool): Compile with ``torch.compile``: weights frozen into the code
            on a CPU, which also folds normalisation into convolutions and chooses
            their memory format; CUDA graphs on a GPU. Defaults to True.
        dtype (str): ``'float32'``, ``'bfloat16'`` or ``'float16'`` to compute in;
            ``'auto'`` is what autocast asks for, float32 without it. Normalisation
            is computed, or folded, in float32. Defaults to ``'auto'``.

    Raises:
        ValueError: a setting is out of range; later, the copy's output differs.
    """

    def __init__(self, compile: bool = True, dtype: str = 'auto') -> None:
        if dtype != 'auto' and dtype not in DTYPES:
            raise ValueError(
                describe(
                    f'{KEY}.dtype',
                    dtype,
                    'A teacher does not compute in that.',
                    f"Write 'auto' or one of {sorted(DTYPES)}.",
                )
            )
        self.compile = compile
        self.dtype = dtype
        self.reset()

    def reset(self) -> None:
        """Forget the copy, because the teacher has changed."""
        self._eager: TappedNet | None = None

    def settings(self) -> dict:
        """Return the arguments."""
        return dict(compile=self.compile, dtype=self.dtype)

    # Copies and pickles hold the settings alone, because what is compiled belongs to
    # one teacher.
    __getstate__ = settings

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    @torch.no_grad()
    def __call__(self, teacher: nn.Module, inputs: Tensor, recorders: Iterable) -> None:
        """Run the teacher on images (N, C, H, W), for its hooks alone.

        Args:
            teacher (nn.Module): In eval mode.
            inputs (Tensor): Images, in float32.
            recorders (Iterable): mmrazor's, recording; they are emptied between the
                first step's two runs.

        Raises:
            ValueError: the copy's output differs from the teacher's.
        """
        if self._is_outdated(inputs):
            self._check(teacher, inputs, list(recorders))
        _, calls = self._run(inputs)
        replay(teacher, calls)

    def _is_outdated(self, inputs: Tensor) -> bool:
        """Whether there is no copy, or one for other hooks or for smaller batches.

        A run resumed at the last batch of an epoch begins with a small one.
        """
        if self._eager is None or self._count_hooks() != self._hooks:
            return True
        return len(inputs) > self._shape[0]

    def _run(self, inputs: Tensor) -> tuple[Tensor, list]:
        same = inputs.shape == self._shape
        if same and inputs.is_cuda and self.compile:
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(inputs.device.type, enabled=False):
            return (self._fast if same else self._eager)(inputs)

    def _count_hooks(self) -> int:
        return sum(map(len, self._hook_lists))

    def _check(self, teacher: nn.Module, inputs: Tensor, recorders: list) -> None:
        """Make the copy and compare it with the teacher."""
        hooks = hooks_of(teacher)
        self._hook_lists = [some for pair in hooks.values() for some in pair]
        self._hooks = self._count_hooks()
        self._shape = inputs.shape
        dtype = self._dtype(inputs)
        names = {name for name, pair in hooks.items() if any(pair)}
        devices = [inputs.device] if inputs.is_cuda else []
        with torch.random.fork_rng(devices), _without_tf32():
            expected = _run_plain(teacher, inputs, names)
            for recorder in recorders:
                if recorder.data_buffer:
                    # A tap refuses a feature that the teacher has overwritten.
                    recorder.get_record_data()
                recorder.reset_data_buffer()
            self._eager = self._build(teacher, inputs, names, dtype)
            self._fast = self._compiled(inputs)
            with _freezing(not inputs.is_cuda):
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
        net = copy_without_hooks(teacher)
        if dtype != torch.float32:
            _warn_if_slow(dtype, inputs.device)
            net.to(dtype)
            for module in net.modules():
                if isinstance(module, _BatchNorm):
                    module.float()
        return TappedNet(net, names, dtype)

    def _compiled(self, inputs: Tensor):
        if not self.compile:
            return self._eager
        options = {'triton.cudagraphs': True} if inputs.is_cuda else {'freezing': True}
        return compiled(self._eager, f'{KEY}.compile', options=options, dynamic=False)

    def _compare(self, expected, found, dtype: torch.dtype) -> None:
        """Refuse a copy that is another net."""
        worst = 0.0
        for plain, fast in zip(floats_of(expected), floats_of(found), strict=True):
            if plain.numel():
                scale = plain.abs().amax().clamp(min=torch.finfo(plain.dtype).tiny)
                # Python's max would pass over a nan.
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
                    "Set compile=False and dtype='float32', one after the other, to "
                    'see which of them this teacher does not bear, or remove the key.',
                )
            )


def build_runtime(settings: dict) -> TeacherRuntime:
    """Return the runtime of ``model.teacher_runtime``.

    Raises:
        ValueError: it has a key that there is not, or a wrong value.
    """
    known = TeacherRuntime().settings()
    for name in settings:
        if name in GONE:
            problem = 'There is no such setting any more.'
            remedy = f'{GONE[name]}.'
            key = f'{KEY}.{name}'
            raise ValueError(describe(key, settings[name], problem, remedy))
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


def _freezing(on: bool) -> AbstractContextManager:
    """Let the first run of a compiled net trace it with its weights as constants.

    The option of the same name alone comes too late, because PyTorch looks at it only
    after the weights have been traced as inputs; it then does nothing.
    """
    return torch._inductor.config.patch(freezing=on)


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Compute float32 on a GPU with all of its bits."""
    kinds = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [kind.allow_tf32 for kind in kinds]
    for kind in kinds:
        kind.allow_tf32 = False
    try:
        yield
    finally:
        for kind, allowed in zip(kinds, before, strict=True):
            kind.allow_tf32 = allowed
