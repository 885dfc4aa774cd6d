"""Distillation from one frozen teacher whose weights cannot get lost."""

import copy
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmpretrain.models import ClsHead, HuggingFaceClassifier, TimmClassifier
from mmrazor.models.algorithms import SingleTeacherDistill
from mmrazor.models.utils import add_prefix
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...datasets.label_batch import LabelBatch, sample_indices
from ...tasks import task_of
from ...utils.arguments import check_arguments
from ...utils.building import build_part
from ...utils.checkpoint import (
    STUDENT_PREFIX,
    load_strictly,
    model_weights,
    read_checkpoint,
    require_file,
)
from ...utils.compiling import is_compiled, is_compiling
from ...utils.errors import describe
from ...utils.net_config import net_config
from ...utils.random_states import torch_states_kept
from ...utils.type_names import resolve_within
from ..checks import LARGEST_SETTING, LEAST_SETTING
from ..distillers.compared_classes import compares_classes
from ..distillers.distiller_config import HEAD, check_by_class, scope_of
from ..distillers.first_step import FirstStep
from ..distillers.head_trial import HeadTrial
from ..losses.base import losses_of
from ..recorders.watched import watch_all
from ..runtime import TeacherRuntime, build_runtime, check_reach
from .converted_norms import ConvertedNorms
from .named_nets import naming_net
from .teacher import build_net, check_batch_augments
from .teacher_classes import ClassNames
from .teacher_entries import TeacherEntry
from .teacher_identity import (
    keep_weights,
    read_stored,
    require_same_choice,
    require_same_teachers,
    stored,
    stored_choice,
)
from .teacher_images import ImageMap, TeacherView
from .teacher_shards import check_shardable, shard_teacher, shared_in_copies
from .teachers import Teachers
from .unlabelled import check_teacher_mode, lacking, left_out, naming_labels
from .widths import fill_widths

TEACHER_PREFIX = 'teacher.'


@MODELS.register_module()
class FrozenTeacherDistill(SingleTeacherDistill):
    """:class:`mmrazor.SingleTeacherDistill` with a teacher one can rely on.

    The teacher is loaded strictly, stays in eval mode as a whole (dropout and drop path
    too) and runs without its own loss. Nothing can initialise it again, and no later
    checkpoint can replace it. Training checkpoints leave it out and hold its SHA-256
    instead, which is compared when a run is resumed.

    Several teachers teach as one :class:`TeacherEnsemble`::

        teacher=[dict(name='r50', net=dict(...), ckpt='r50.pth', weight=2.0),
                 dict(name='r18', net=dict(...), ckpt='r18.pth')],
        teacher_average='probabilities',

    The teacher's config may have a ``data_preprocessor`` of its own (``mean``, ``std``,
    ``to_rgb`` and, beside them, ``size``). The batch is then mapped to it for the
    teacher alone, see :class:`ImageMap`.

    Args:
        distiller (dict): Config of the distiller, normally a
            :class:`StrictDistiller`. :func:`fill_widths` says what it may leave out.
        teacher (dict | BaseModel | list): Config of the teacher, or the built teacher;
            or a list of teachers, each a :class:`TeacherEntry`.
        architecture (dict | BaseModel): Config of the student, or the built student.
        teacher_ckpt (str, optional): Path or URL of the teacher's checkpoint. It is
            one of mmpretrain, or a distillation checkpoint whose student becomes the
            teacher.
        teacher_from (str, optional): The command that makes ``teacher_ckpt``. It is
            shown when the file is missing or does not fit.
        teacher_classes (list[str | int], optional): For each class of the student, in
            its order, the teacher's name of it (as its checkpoint has it), or its index
            there. The teacher then scores these classes alone. Defaults to None (the
            same classes in the same order).
        teacher_average (str, optional): What of several teachers is averaged,
            ``'logits'`` or ``'probabilities'``; it has to be said.
        student_ckpt (str, optional): Checkpoint of these kinds to start the student
            from. It is loaded strictly, after initialisation.
        allow_random_teacher (bool): Accept a teacher without a checkpoint, which its
            own config then initialises. Defaults to False.
        save_teacher (bool): Keep the teacher in training checkpoints. Defaults to
            False; a random teacher is always kept.
        teacher_mode (str): ``'tensor'`` runs backbone, neck and head; ``'loss'`` also
            runs the teacher's own loss, for recorders inside it. Defaults to
            ``'tensor'``.
        teacher_runtime (dict, optional): Arguments of a :class:`TeacherRuntime`,
            which runs the teacher faster. Defaults to None (the teacher as it is).
        teacher_shard (bool): Share the teacher's weights out among the ranks (FSDP2,
            PyTorch >= 2.7), for a teacher that is too big for one device. Of R ranks
            each keeps 1/R of the weights, and in a step it gathers the other
            (R - 1)/R of them, a block at a time. What is computed stays the same, to
            the last bit. A copy of the algorithm (``EMAHook``) shares the teacher.
            Defaults to False, where each rank has the whole teacher and none is asked.
        student_loss_weight (float): Factor of the student's own losses, which compare
            it with the labels, from 1e-6 to 1e6. Defaults to 1.0.
        data_preprocessor (dict | nn.Module, optional): Makes the batch for both nets.
            Its ``type`` defaults to that of the student's
            :class:`~cakd_mm.tasks.Task`. Defaults to None, the student's.
        **kwargs: ``student_trainable``, ``calculate_student_loss``, ``init_cfg`` and
            others, as in :class:`mmrazor.SingleTeacherDistill`.

    Raises:
        FileNotFoundError: a checkpoint does not exist.
        ValueError: a checkpoint cannot be read or does not fit, the teacher
            has none, or teacher and student see or score different things.
        TypeError: an argument is misspelt or missing.

    Attributes:
        teacher_class_names (list[ClassNames]): What each teacher calls the classes, in
            the order of its scores; empty if no loss compares what it scores.
        teacher_views (list[TeacherView]): What each teacher was trained on and sees.
    """

    _modules: dict[str, nn.Module | None]
    save_teacher: bool
    student_ckpt: str | None
    student_loss_weight: float
    teacher_class_names: list[ClassNames]
    teacher_choice: str
    teacher_file: str
    teacher_is_loaded: bool
    teacher_is_shared_out: bool
    teacher_image_map: ImageMap | None
    teacher_mode: str
    teacher_runtime: TeacherRuntime | None
    # No buffer, because hooks that average buffers over ranks would change it.
    teacher_sha256: Tensor
    teacher_views: list[TeacherView]

    def __init__(
        self,
        distiller: dict | None = None,
        teacher: dict | BaseModel | list | None = None,
        architecture: dict | BaseModel | None = None,
        teacher_ckpt: str | None = None,
        teacher_from: str | None = None,
        teacher_classes: list[str | int] | None = None,
        teacher_average: Literal['logits', 'probabilities'] | None = None,
        student_ckpt: str | None = None,
        allow_random_teacher: bool = False,
        save_teacher: bool = False,
        teacher_mode: Literal['tensor', 'loss'] = 'tensor',
        teacher_runtime: dict | None = None,
        teacher_shard: bool = False,
        student_loss_weight: float = 1.0,
        data_preprocessor: dict | nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        given = dict(locals())
        for name in ('self', 'kwargs', '__class__'):
            del given[name]
        check_arguments(FrozenTeacherDistill, {**given, **kwargs}, 'model')
        if teacher_shard:
            check_shardable(given)
        distiller = _required('distiller', distiller)
        teacher = _required('teacher', teacher)
        architecture = _required('architecture', architecture)
        scope = scope_of(distiller)
        with DefaultScope.overwrite_default_scope(scope):
            check_by_class(distiller)
        if kwargs.pop('teacher_trainable', False):
            problem = 'FrozenTeacherDistill never trains the teacher.'
            remedy = "Use type='mmrazor.SingleTeacherDistill' for that."
            raise ValueError(describe('model.teacher_trainable', True, problem, remedy))
        weight = student_loss_weight
        if not LEAST_SETTING <= weight <= LARGEST_SETTING:
            problem = f'It is a factor from {LEAST_SETTING:g} to {LARGEST_SETTING:g}.'
            remedy = 'Write 1.0, or calculate_student_loss=False to learn from the '
            remedy += 'teacher alone.'
            key = 'model.student_loss_weight'
            raise ValueError(describe(key, weight, problem, remedy))
        is_list = isinstance(teacher, (list, tuple))
        if is_list and teacher_mode != 'tensor':
            problem = 'Several teachers compute no loss of their own.'
            key, remedy = 'model.teacher_mode', "Write 'tensor'."
            raise ValueError(describe(key, teacher_mode, problem, remedy))
        if student_ckpt is not None:
            require_file(student_ckpt, 'model.student_ckpt', 'Correct the path.')
        # Teacher and distiller draw their first weights from a fork of the generator,
        # so that a seed gives the student the same first weights with any teacher,
        # and without one.
        with torch_states_kept():
            teachers = Teachers(
                TeacherEntry(
                    teacher, teacher_ckpt, teacher_from, classes=teacher_classes
                ),
                teacher_average,
                allow_random_teacher,
            )
        written = None
        if isinstance(architecture, dict):
            written = net_config(architecture, 'model.architecture')
            architecture = build_net(copy.deepcopy(written), 'model.architecture')
        if kwargs.get('calculate_student_loss', True):
            _require_classes(architecture)
        if isinstance(data_preprocessor, dict):
            # A project's scope is where preprocessors and batch_augments are found.
            student: Any = architecture  # a net by now
            task = task_of(student)
            default = dict(type=task.preprocessor, _scope_=task.scope)
            data_preprocessor = resolve_within({**default, **data_preprocessor})
            key = 'data_preprocessor'
            data_preprocessor = build_part(data_preprocessor, MODELS, key)
        nets: tuple[Any, Any] = architecture, teachers.net
        with (
            DefaultScope.overwrite_default_scope(scope),
            torch_states_kept(),
        ):
            filled = fill_widths(distiller, *nets)
            super().__init__(
                architecture=architecture,
                distiller=filled,
                teacher=teachers.net,
                data_preprocessor=data_preprocessor,
                **kwargs,
            )
        # What a tool writes into the work dir, so that the dumped config is the one
        # that was built.
        self.distiller_config = filled
        self.teacher_mode = teacher_mode
        self.teacher_runtime = None
        if teacher_runtime is not None:
            check_reach(self.distiller, teacher_mode)
            self.teacher_runtime = build_runtime(teacher_runtime)
        self.student_loss_weight = student_loss_weight
        self.student_ckpt = student_ckpt
        self.teacher_is_loaded = teachers.is_loaded
        self.save_teacher = save_teacher or not teachers.is_loaded
        by_classes = compares_classes(self.distiller, self.teacher)
        teachers.agree_with(self.student, self.data_preprocessor, by_classes)
        check_batch_augments(self.student, self.data_preprocessor, written)
        self.teacher_views = teachers.views
        self.teacher_image_map = teachers.image_map
        self.teacher_class_names = teachers.class_names if by_classes else []
        self._identities = teachers.identities
        self.teacher_sha256, self.teacher_file = stored(self._identities)
        self.teacher_choice = stored_choice(self._identities)
        # mmrazor's own distiller does not watch its recorders.
        for side, net in (('student', self.student), ('teacher', self.teacher)):
            recorders = getattr(self.distiller, f'{side}_recorders')
            watch_all(recorders, net, f'{HEAD}.{side}_recorders')
        self.first_step = FirstStep(self.distiller)
        self.head_trial = HeadTrial(self.distiller, teacher_mode == 'loss')
        self.converted_norms = ConvertedNorms(self)
        self._indexed_losses = [loss for loss in losses_of(self) if loss.uses_indices]
        self.teacher.eval()
        self.teacher_is_shared_out = teacher_shard and shard_teacher(self)
        self._register_state_dict_hook(_drop_teacher)
        self._register_load_state_dict_pre_hook(self._before_load)

    def init_weights(self) -> None:
        """Initialise student and distiller, and load the student's checkpoint."""
        # The teacher is hidden, because mmengine initialises all modules that it finds.
        modules = self._modules
        self._modules = {k: v for k, v in modules.items() if k != 'teacher'}
        try:
            super().init_weights()
        finally:
            self._modules = modules
        if self.student_ckpt is not None:
            key, remedy = 'model.student_ckpt', 'Give a checkpoint of this student.'
            checkpoint = read_checkpoint(self.student_ckpt, key, remedy)
            weights = model_weights(checkpoint)
            load_strictly(self.student, weights, key, self.student_ckpt, remedy)

    def train(self, mode: bool = True) -> 'FrozenTeacherDistill':
        """Set the student's and the distiller's mode; the teacher stays in eval."""
        super().train(mode)
        self.teacher.eval()
        self.converted_norms.follow()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> 'FrozenTeacherDistill':
        """Copy all, but a teacher that is shared out among ranks."""
        if self.teacher_is_shared_out:
            memo.update(shared_in_copies(self))
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> Any:
        """Compute as ``BaseAlgorithm`` does; the first losses try the heads out."""
        # What the trial does to heads could only be compiled for the first step.
        if is_compiling() or mode != 'loss' or not self.training:
            return super().forward(inputs, data_samples, mode)
        with self.head_trial.watching(self.student, self.teacher):
            return super().forward(inputs, data_samples, mode)

    def train_step(
        self, data: dict | tuple | list, optim_wrapper: OptimWrapper
    ) -> dict[str, Tensor]:
        """Train on a batch, as mmengine does; a compiled model says what is left out.

        The log cannot be written from within compiled code.
        """
        if is_compiled(self):
            self.head_trial.leave_out(self.student)
        return super().train_step(data, optim_wrapper)

    def loss(
        self, batch_inputs: Tensor, data_samples: list | None = None
    ) -> dict[str, Tensor]:
        """Compute the student's own and the distillation losses of a batch.

        Args:
            batch_inputs (Tensor): Preprocessed images, (N, C, H, W).
            data_samples (list[DataSample], optional): Their annotations. A batch in
                which not all images have a label is trained without labels if
                ``calculate_student_loss`` is False.

        Returns:
            dict[str, Tensor]: ``student.*`` and ``distill.*``; entries whose
            name contains ``loss`` are summed by mmengine.
        """
        self.converted_norms.follow()
        task = task_of(self.student)
        is_known = task.is_of(type(self.student))
        lack = lacking(data_samples, task) if is_known else ''
        check_teacher_mode(self.teacher_mode, lack)
        run_teacher = partial(self._run_teacher, batch_inputs, data_samples)
        distiller = self.distiller
        distiller.set_deliveries_override(False)
        with distiller.teacher_recorders, distiller.deliveries, torch.no_grad():
            run_teacher()
        if self._indexed_losses:
            indices = sample_indices(data_samples)
            for loss in self._indexed_losses:
                loss.indices = None if indices is None else torch.from_numpy(indices)
        if isinstance(data_samples, LabelBatch) and _concatenates(self.student):
            data_samples = data_samples.as_single()
        # A classifier without labels gives its scores as it does in its loss.
        alone = bool(lack) and not self.calculate_student_loss
        mode = 'tensor' if alone else 'loss'
        run_student = partial(self.student, batch_inputs, data_samples, mode=mode)
        distiller.set_deliveries_override(True)
        with (
            distiller.student_recorders,
            distiller.deliveries,
            torch.set_grad_enabled(self.student_trainable and torch.is_grad_enabled()),
            naming_labels('' if alone else lack),
            naming_net(self.student, 'model.architecture'),
        ):
            losses = run_student()
        losses = self._weighted(losses) if self.calculate_student_loss else {}
        distiller.left_out = left_out(distiller, lack) if alone else set()
        if not self.distillation_stopped:
            distilled = self._distill(run_teacher, run_student)
            losses.update(add_prefix(distilled, 'distill'))
        return losses

    def _distill(
        self, run_teacher: Callable[[], Any], run_student: Callable[[], Any]
    ) -> dict[str, Tensor]:
        """Return the distillation losses of what both nets have given.

        Both can be run again, which the first step may need to find a mistake.
        """
        first_step = self.first_step
        first_step.check_compiled(False, self.teacher, run_teacher)
        first_step.check_compiled(True, self.student, run_student)
        losses = self.distiller.compute_distill_losses()
        if self.training and self.student_trainable and torch.is_grad_enabled():
            first_step.check_gradients(losses, self.student, run_student)
        return losses

    def teacher_inputs(self, batch_inputs: Tensor) -> Tensor:
        """Return what the teacher sees of a batch, (N, C, H, W)."""
        mapped = self.teacher_image_map
        return batch_inputs if mapped is None else mapped(batch_inputs)

    def _run_teacher(self, batch_inputs: Tensor, data_samples: list | None) -> None:
        """Run the teacher, so that its recorders record."""
        batch_inputs = self.teacher_inputs(batch_inputs)
        if self.teacher_runtime is None:
            mapped = self.teacher_image_map
            size = None if mapped is None else mapped.size
            with naming_net(self.teacher, 'model.teacher', size):
                self.teacher(batch_inputs, data_samples, mode=self.teacher_mode)
            return
        recorders = self.distiller.teacher_recorders.recorders.values()
        check = partial(self.first_step.check_records, from_student=False)
        self.teacher_runtime(self.teacher, batch_inputs, recorders, check)

    def _weighted(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """Return what the student's head gave as ``student.*``, its losses weighted."""
        weight = self.student_loss_weight
        if weight == 1.0:
            return add_prefix(outputs, 'student')
        weighted = {}
        for name, value in outputs.items():
            if 'loss' in name:
                is_list = isinstance(value, list)
                value = [weight * x for x in value] if is_list else weight * value
            weighted[name] = value
        return add_prefix(weighted, 'student')

    def recorded_ranges(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return (min, max) of every score matrix recorded in the last step.

        Returns:
            dict[str, tuple[Tensor, Tensor]]: ``student.<recorder>`` or
            ``teacher.<recorder>`` to two scalars on the scores' device, each of the
            scores' type.
        """
        ranges: dict[str, tuple[Tensor, Tensor]] = {}
        for side in ('student', 'teacher'):
            recorders = getattr(self.distiller, f'{side}_recorders').recorders
            for name, recorder in recorders.items():
                data = recorder.data_buffer[0] if recorder.data_buffer else None
                if isinstance(data, nn.Parameter):
                    continue
                if isinstance(data, Tensor) and data.ndim == 2 and data.numel():
                    low, high = torch.aminmax(data.detach())
                    ranges[f'{side}.{name}'] = (low, high)
        return ranges

    def _before_load(self, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        """Keep the teacher as it is, whatever checkpoint is loaded."""
        if not any(k.startswith(prefix + STUDENT_PREFIX) for k in state_dict):
            value = f'a checkpoint with keys like {next(iter(state_dict), None)!r}'
            problem = 'It is not a distillation checkpoint: nothing of it fits.'
            remedy = 'To start the student from a plain checkpoint write '
            remedy += 'model.student_ckpt=... instead of load_from.'
            raise ValueError(describe('load_from', value, problem, remedy))
        other = state_dict.pop(f'{prefix}teacher_sha256', None)
        text, choice = (
            _text(state_dict.pop(f'{prefix}{name}', None))
            for name in ('teacher_file', 'teacher_choice')
        )
        if self.teacher_runtime is not None:
            self.teacher_runtime.reset()
        if other is not None:
            before = read_stored(other, text)
            require_same_teachers(self._identities, before, choice is None)
            require_same_choice(self._identities, choice)
        start = f'{prefix}{TEACHER_PREFIX}'
        weights = self.teacher.state_dict(prefix=start)
        keep_weights(self._identities, weights, state_dict, start)


def _required(name: str, part: Any) -> Any:
    """Return a part of the algorithm, and refuse to go on without it."""
    if part is None:
        remedy = f'Write model = dict({name}=dict(...))'
        if name == 'distiller':
            remedy += '; the one of a method base is '
            remedy += 'model = dict(distiller=_base_.distiller).'
        else:
            remedy += ', or inherit a base of pairs/.'
        problem = 'A distillation needs it.'
        raise TypeError(describe(f'model.{name}', None, problem, remedy))
    return part


def _require_classes(student: Any) -> None:
    """Refuse a net that was built without a classifier, as its labels would be of none.

    Its own loss would take the features that it gives for scores. What scores in a head
    may have a backbone that counts none.
    """
    if getattr(student, 'head', None) is not None:
        return
    told = [getattr(x, 'num_classes', None) for x in (student, *student.children())]
    if any(isinstance(count, int) and count == 0 for count in told):
        problem = 'A net without a classifier learns nothing from labels.'
        remedy = 'Write the number of classes, or model.calculate_student_loss=False.'
        key = 'model.architecture.num_classes'
        raise ValueError(describe(key, 0, problem, remedy))


def _concatenates(student: BaseModel) -> bool:
    """Tell whether the student makes one tensor of its samples' labels."""
    kinds = ClsHead, TimmClassifier, HuggingFaceClassifier
    own = getattr(type(getattr(student, 'head', student)), '_get_loss', None)
    return any(own is kind._get_loss for kind in kinds)


def _text(stored_text: Tensor | None) -> str | None:
    """Return a text that :func:`_drop_teacher` has stored."""
    if stored_text is None:
        return None
    return os.fsdecode(bytes(stored_text.tolist()))


def _drop_teacher(
    module: FrozenTeacherDistill, state_dict: dict[str, Tensor], prefix: str, _: dict
) -> None:
    """Leave the frozen teacher out of checkpoints; store its hash and file."""
    state_dict[f'{prefix}teacher_sha256'] = module.teacher_sha256
    # Texts are stored as bytes, because a state dict holds tensors alone.
    for name in ('teacher_file', 'teacher_choice'):
        text = list(os.fsencode(getattr(module, name)))
        state_dict[f'{prefix}{name}'] = torch.tensor(text, dtype=torch.uint8)
    if not module.save_teacher:
        for key in [k for k in state_dict if k.startswith(prefix + TEACHER_PREFIX)]:
            del state_dict[key]
