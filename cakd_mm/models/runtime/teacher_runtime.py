"""A frozen teacher, run as fast as a machine can."""

import logging
from collections.abc import Callable, Iterable

import torch
import torch._inductor.config
from mmengine.logging import print_log
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.task_modules.recorder import (
    ModuleInputsRecorder,
    ModuleOutputsRecorder,
    ParameterRecorder,
)
from torch import Tensor, nn

from ...compat import autocast_dtype, without_tf32
from ...tasks import task_of
from ...utils.arguments import check_arguments
from ...utils.compiling import compiled
from ...utils.errors import describe, nearest
from ...utils.random_states import torch_states_kept
from .half_precision import PAYS, speedup
from .tapped import Call, TappedNet, copy_in, floats_of, hooks_of, replay

KEY = 'model.teacher_runtime'
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)
# Recorders that work by hooks of modules, or that need no forward pass.
REACHED = (ModuleInputsRecorder, ModuleOutputsRecorder, ParameterRecorder)
UNREACHED_FUNCTION = 'It patches functions, which the fast teacher does not call.'
UNREACHED_DELIVERY = 'Deliveries do not reach into the fast teacher.'
UNREACHED_LOSS = 'The fast teacher computes no loss of its own.'
# How far the copy may be from the plain teacher, relative to its largest value.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 0.05}
# Settings of earlier versions, and what to write instead of them.
REMOVED = dict(
    fold_batchnorm='compile=True, the default, folds normalisation by itself. '
    'Remove the key, or write compile=False for layers as they are',
    channels_last='compile=True, the default, chooses the memory format by itself. '
    'Remove the key',
    memo_gb='The teacher is run on every image of every step. Remove the key',
)


class TeacherRuntime:
    """Runs a compiled copy of the teacher, and calls the teacher's hooks.

    The teacher itself stays as it is, with its names, weights and hooks; its recorders
    get the inputs and outputs of the copy's modules. In the first step both run, and
    training stops if they differ by more than 1e-4 of the largest value (float16:
    0.05, bfloat16: 0.2), in the output or in anything that is recorded. TF32 is off in
    this comparison, because it alone may cause a larger difference. A batch that is
    smaller than the first (the last of an epoch) runs the copy without compilation. A
    warning tells where half precision does not pay, unless ``--fast`` has chosen it.

    Args:
        compile (bool): Compile with ``torch.compile``. On a CPU the weights become
            constants, so that normalisation is folded into convolutions and their
            memory format is chosen; on a GPU CUDA graphs are used. Defaults to True.
        dtype (str): ``'float32'``, ``'bfloat16'`` or ``'float16'`` to compute in;
            ``'auto'`` is what autocast asks for, float32 without it. Normalisation
            is computed, or folded, in float32. Defaults to ``'auto'``.
        strict (bool): Stop training if the copy differs or cannot be made. If False,
            the teacher then runs as it is, and a warning says so. Defaults to True.

    Raises:
        ValueError: a setting is out of range; later, the copy's output differs.
    """

    # The copy, compiled and as it is; None before the first step.
    _fast: Callable[[Tensor], tuple[Tensor, list[Call]]]
    _eager: TappedNet | None
    # Whether this teacher has no copy that may be used; it then runs as it is.
    _has_none: bool
    # Hooks of all modules, their number and the shape of the images at the first step.
    _hook_lists: list[dict]
    _hook_count: int
    _shape: torch.Size

    def __init__(
        self, compile: bool = True, dtype: str = 'auto', strict: bool = True
    ) -> None:
        if dtype != 'auto' and dtype not in DTYPES:
            problem = 'A teacher does not compute in that.'
            remedy = f"Write 'auto' or one of {sorted(DTYPES)}."
            raise ValueError(describe(f'{KEY}.dtype', dtype, problem, remedy))
        self.compile = compile
        self.dtype = dtype
        self.strict = strict
        self.reset()

    def reset(self) -> None:
        """Forget the copy, because the teacher has changed."""
        self._eager = None
        self._has_none = False

    def settings(self) -> dict:
        """Return the arguments."""
        return dict(compile=self.compile, dtype=self.dtype, strict=self.strict)

    def __reduce__(self) -> tuple:
        # A copy gets the settings alone, because what is compiled belongs to one
        # teacher.
        return type(self), tuple(self.settings().values())

    @torch.no_grad()
    def __call__(
        self,
        teacher: nn.Module,
        inputs: Tensor,
        recorders: Iterable,
        check_records: Callable[[], None] = lambda: None,
    ) -> None:
        """Run the copy on images (N, C, H, W), and call the teacher's hooks.

        Args:
            teacher (nn.Module): In eval mode.
            inputs (Tensor): Images, in float32.
            recorders (Iterable): mmrazor's, recording. They are emptied between the
                two runs of the first step.
            check_records (Callable): Called between the two, while they hold what the
                teacher itself has given, because what the copy gives has no history.
                Defaults to nothing.

        Raises:
            ValueError: the copy's output differs from the teacher's, and it is strict.
        """
        copy = self._eager
        # A copy for small batches is made again, because a run that is resumed at the
        # end of an epoch begins with a small batch.
        if not self._has_none and (
            copy is None
            or self._count_hooks() != self._hook_count
            or len(inputs) > self._shape[0]
        ):
            copy = self._try_to_make(teacher, inputs, recorders, check_records)
        if copy is None:
            task_of(teacher).outputs(teacher, inputs)
            return
        _, calls = self._run(copy, inputs)
        replay(teacher, calls)

    def _run(self, copy: TappedNet, inputs: Tensor) -> tuple[Tensor, list[Call]]:
        same = inputs.shape == self._shape
        if same and inputs.is_cuda and self.compile:
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(inputs.device.type, enabled=False):
            return self._fast(inputs) if same else copy(inputs)

    def _count_hooks(self) -> int:
        return sum(map(len, self._hook_lists))

    def _try_to_make(
        self,
        teacher: nn.Module,
        inputs: Tensor,
        recorders: Iterable,
        check_records: Callable[[], None],
    ) -> TappedNet | None:
        """Make the copy; if that fails and it is not strict, say so once."""
        try:
            return self._make(teacher, inputs, recorders, check_records)
        except Exception as error:  # A net may resist in any way.
            if self.strict:
                raise
            text = f'The teacher runs as it is, without {KEY}: {error}'
            print_log(text, 'current', logging.WARNING)
        self._eager, self._has_none = None, True
        for recorder in recorders:
            recorder.reset_data_buffer()
        return None

    def _make(
        self,
        teacher: nn.Module,
        inputs: Tensor,
        recorders: Iterable,
        check_records: Callable[[], None],
    ) -> TappedNet:
        """Make the copy, compile it and compare it with the teacher."""
        hooks = hooks_of(teacher)
        self._hook_lists = [of_kind for pair in hooks.values() for of_kind in pair]
        self._hook_count = self._count_hooks()
        self._shape = inputs.shape
        dtype = self._dtype(inputs)
        names = {name for name, pair in hooks.items() if any(pair)}
        on_host = inputs.device.type == 'cpu'
        # What is not strict comes from --fast, which has timed this teacher.
        if dtype != torch.float32 and self.strict:
            _warn_if_slow(dtype, inputs.device)
        with torch_states_kept([inputs]), without_tf32():
            expected = _run_plain(teacher, inputs, names)
            check_records()
            for recorder in recorders:
                recorder.reset_data_buffer()
            copy = self._build(teacher, names, dtype)
            self._eager = copy
            self._fast = copy
            if self.compile:
                options = {'triton.cudagraphs': inputs.is_cuda, 'freezing': on_host}
                key = f'{KEY}.compile'
                self._fast = compiled(copy, key, options=options, dynamic=False)
            # The option `freezing` alone comes too late, because PyTorch looks at it
            # only after the weights have been traced as inputs.
            with torch._inductor.config.patch(freezing=on_host):
                found = self._run(copy, inputs)
        self._compare(expected, found, dtype)
        return copy

    def _dtype(self, inputs: Tensor) -> torch.dtype:
        if self.dtype != 'auto':
            return DTYPES[self.dtype]
        return autocast_dtype(inputs.device.type) or torch.float32

    def _build(
        self, teacher: nn.Module, names: set[str], dtype: torch.dtype
    ) -> TappedNet:
        return TappedNet(copy_in(teacher, dtype), names, dtype)

    def _compare(self, expected: tuple, found: tuple, dtype: torch.dtype) -> None:
        """Refuse a copy whose output or records differ from the teacher's."""
        worst = 0.0
        for plain, fast in zip(floats_of(expected), floats_of(found), strict=True):
            if plain.numel():
                scale = plain.abs().amax().clamp(min=torch.finfo(plain.dtype).tiny)
                # Python's max would pass over a nan.
                error = ((fast - plain).abs().amax() / scale).nan_to_num(float('inf'))
                worst = max(worst, error.item())
        print_log(
            f'The fast teacher computes in {dtype}; it differs from the plain one by '
            f'{worst:.1e} of the largest value at most.',
            'current',
        )
        if worst > TOLERANCE[dtype]:
            problem = f'The fast teacher differs by {worst:.1e} of the largest value '
            problem += f'from the plain one, and may by {TOLERANCE[dtype]:.0e}.'
            remedy = "Set compile=False and dtype='float32', one after the other, to "
            remedy += 'see which of them this teacher does not bear, or remove the key.'
            raise ValueError(describe(KEY, self.settings(), problem, remedy))


def build_runtime(settings: dict) -> TeacherRuntime:
    """Return the runtime of ``model.teacher_runtime``.

    Raises:
        ValueError: a key is unknown or no longer there, or a value is wrong.
    """
    known = TeacherRuntime().settings()
    for name, value in settings.items():
        if name in known:
            continue
        problem = f'There is no such setting; like it: {nearest(name, known)}.'
        remedy = 'Correct or remove it.'
        if name in REMOVED:
            problem, remedy = 'There is no such setting any more.', f'{REMOVED[name]}.'
        raise ValueError(describe(f'{KEY}.{name}', value, problem, remedy))
    check_arguments(TeacherRuntime, settings, KEY)
    return TeacherRuntime(**settings)


def unreached(
    distiller: ConfigurableDistiller, teacher_mode: str
) -> tuple[str, str, str] | None:
    """Return what looks into the teacher by other means than hooks of its modules.

    Args:
        distiller (ConfigurableDistiller): It has the recorders and the deliveries.
        teacher_mode (str): How the teacher is run.

    Returns:
        tuple[str, str, str]: The config key of the recorder, the delivery or the mode,
        its value, and why it does not reach the fast teacher; None if all do.
    """
    for name, recorder in distiller.teacher_recorders.recorders.items():
        if not isinstance(recorder, REACHED):
            kind = type(recorder).__name__.removesuffix('Recorder')
            key = f'model.distiller.teacher_recorders.{name}.type'
            return key, kind, UNREACHED_FUNCTION
    for name in distiller.deliveries.deliveries:
        key = f'model.distiller.distill_deliveries.{name}'
        return key, '(set)', UNREACHED_DELIVERY
    if teacher_mode != 'tensor':
        return 'model.teacher_mode', teacher_mode, UNREACHED_LOSS
    return None


def check_reach(distiller: ConfigurableDistiller, teacher_mode: str) -> None:
    """Refuse what :func:`unreached` finds, with its arguments.

    Raises:
        ValueError: naming the recorder, the delivery or the mode.
    """
    found = unreached(distiller, teacher_mode)
    if found is not None:
        remedy = f'Remove `{KEY}`'
        if found[-1] != UNREACHED_DELIVERY:
            remedy += ', or tap a module (ModuleOutputs, Tap)'
        raise ValueError(describe(*found, f'{remedy}.'))


def _warn_if_slow(dtype: torch.dtype, device: torch.device) -> None:
    """Warn if half precision does not pay on this machine."""
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
) -> tuple[Tensor, list[Call]]:
    """Run the teacher itself, in float32, to compare the copy with it."""
    tapped = TappedNet(teacher, names, torch.float32)
    try:
        with torch.autocast(inputs.device.type, enabled=False):
            return tapped(inputs)
    finally:
        tapped.untap()
