"""Distillation from one frozen teacher whose weights cannot get lost."""

import copy
import math
from numbers import Real

import torch
from mmengine.model import BaseModel
from mmpretrain.models import ClsHead
from mmrazor.models.algorithms import SingleTeacherDistill
from mmrazor.models.utils import add_prefix
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...datasets.label_batch import LabelBatch
from ...utils.arguments import check_arguments
from ...utils.checkpoint import (
    STUDENT_PREFIX,
    fingerprint,
    load_strictly,
    model_weights,
    read_checkpoint,
    require_file,
)
from ...utils.errors import describe
from ...utils.net_config import net_config
from ..runtime import build_runtime, check_reach
from .teacher import (
    build_net,
    build_teacher,
    check_batch_augments,
    check_classes,
    check_preprocessing,
    made_by,
)
from .widths import fill_widths

TEACHER_PREFIX = 'teacher.'
# What to write where a part of the algorithm is missing.
MISSING = dict(
    distiller='Write model = dict(distiller=dict(...)); the one of a method base is '
    'model = dict(distiller=_base_.distiller).',
    teacher='Write model = dict(teacher=dict(...)), or inherit a base of pairs/.',
    architecture='Write model = dict(architecture=dict(...)), or inherit a base of '
    'pairs/.',
)


@MODELS.register_module()
class FrozenTeacherDistill(SingleTeacherDistill):
    """:class:`mmrazor.SingleTeacherDistill` with a teacher one can rely on.

    The teacher is loaded strictly, stays in eval mode as a whole (dropout and
    drop path too), runs without its own loss, cannot be re-initialised or
    replaced by a later checkpoint, and is left out of training checkpoints;
    its SHA-256 is stored instead and compared when a run is resumed.

    Args:
        distiller (dict): Config of the distiller, normally a
            :class:`StrictDistiller`; see :func:`fill_widths` for what it may
            leave out.
        teacher (dict | BaseModel): Config of the teacher, or the built teacher.
        architecture (dict | BaseModel): The student.
        teacher_ckpt (str, optional): Path or URL of the teacher's checkpoint:
            an mmpretrain one, or a distillation checkpoint whose student
            becomes the teacher.
        teacher_from (str, optional): The command that makes ``teacher_ckpt``,
            shown when the file is missing or does not fit.
        student_ckpt (str, optional): Checkpoint to start the student from, of
            the same kinds. Loaded strictly, after initialisation.
        allow_random_teacher (bool): Accept a teacher without a checkpoint; it
            is then initialised by its own config. Defaults to False.
        save_teacher (bool): Keep the teacher in training checkpoints. Defaults
            to False; a random teacher is always kept.
        teacher_mode (str): ``'tensor'`` runs backbone, neck and head;
            ``'loss'`` also the teacher's own loss, for recorders inside it.
            Defaults to ``'tensor'``.
        teacher_runtime (dict, optional): Arguments of a :class:`TeacherRuntime`,
            which runs the teacher faster; ``dict()`` computes in what autocast asks
            for, float32 without it. Defaults to None (the teacher as it is).
        student_loss_weight (float): Factor of the student's own losses, those from
            the labels. Defaults to 1.0.
        data_preprocessor (dict | nn.Module, optional): Makes the batch that
            both nets see; ``type`` defaults to :class:`BatchPreprocessor`,
            the whole to the student's.
        **kwargs: ``student_trainable``, ``calculate_student_loss``,
            ``init_cfg`` ... as in :class:`mmrazor.SingleTeacherDistill`.

    Raises:
        FileNotFoundError: a checkpoint does not exist.
        ValueError: a checkpoint cannot be read or does not fit, the teacher
            has none, or teacher and student see or score different things.
        TypeError: an argument is misspelt or missing.
    """

    def __init__(
        self,
        distiller: dict | None = None,
        teacher: dict | BaseModel | None = None,
        architecture: dict | BaseModel | None = None,
        teacher_ckpt: str | None = None,
        teacher_from: str | None = None,
        student_ckpt: str | None = None,
        allow_random_teacher: bool = False,
        save_teacher: bool = False,
        teacher_mode: str = 'tensor',
        teacher_runtime: dict | None = None,
        student_loss_weight: float = 1.0,
        data_preprocessor: dict | nn.Module | None = None,
        **kwargs,
    ) -> None:
        check_arguments(FrozenTeacherDistill, kwargs, 'model')
        parts = dict(distiller=distiller, teacher=teacher, architecture=architecture)
        for name, part in parts.items():
            if part is None:
                raise TypeError(
                    describe(
                        f'model.{name}',
                        None,
                        'A distillation needs it.',
                        MISSING[name],
                    )
                )
        if kwargs.pop('teacher_trainable', False):
            raise ValueError(
                describe(
                    'model.teacher_trainable',
                    True,
                    'FrozenTeacherDistill never trains the teacher.',
                    "Use type='mmrazor.SingleTeacherDistill' for that.",
                )
            )
        if teacher_mode not in ('tensor', 'loss'):
            raise ValueError(
                describe(
                    'model.teacher_mode',
                    teacher_mode,
                    'There is no such mode.',
                    "Write 'tensor' or 'loss'.",
                )
            )
        weight = student_loss_weight
        if not (isinstance(weight, Real) and 0 < weight < math.inf):
            raise ValueError(
                describe(
                    'model.student_loss_weight',
                    student_loss_weight,
                    'It is a positive, finite factor.',
                    'Write 1.0, or calculate_student_loss=False to learn from the '
                    'teacher alone.',
                )
            )
        if teacher_ckpt is None and not allow_random_teacher:
            raise ValueError(
                describe(
                    'model.teacher_ckpt',
                    None,
                    'The teacher would keep random weights (`init_cfg` and '
                    '`pretrained` of the teacher are not relied on).',
                    'Name its checkpoint, or write allow_random_teacher=True if '
                    'that is what you mean.' + made_by(teacher_from),
                )
            )
        if student_ckpt is not None:
            require_file(student_ckpt, 'model.student_ckpt', 'Correct the path.')
        # Teacher and distiller draw their first weights apart, so that a seed gives
        # the student the same ones whatever it learns from, and if it learns alone.
        with torch.random.fork_rng(devices=[]):
            teacher = build_teacher(teacher, teacher_ckpt, made_by(teacher_from))
        written = None
        if isinstance(architecture, dict):
            written = net_config(architecture, 'model.architecture')
            architecture = build_net(copy.deepcopy(written), 'model.architecture')
        if isinstance(data_preprocessor, dict):
            # With its scope, where batch_augments are found.
            default = dict(type='mmpretrain.BatchPreprocessor', _scope_='mmpretrain')
            if 'type' not in data_preprocessor:
                data_preprocessor = {**data_preprocessor, **default}
        filled = fill_widths(distiller, architecture, teacher)
        with torch.random.fork_rng(devices=[]):
            super().__init__(
                architecture=architecture,
                distiller=filled,
                teacher=teacher,
                data_preprocessor=data_preprocessor,
                **kwargs,
            )
        # What a tool writes into the work dir, so that the dumped config is the one
        # that was built.
        self.distiller_config = filled
        self.teacher_is_loaded = teacher_ckpt is not None
        self.teacher_mode = teacher_mode
        self.teacher_runtime = None
        if teacher_runtime is not None:
            check_reach(self.distiller, teacher_mode)
            self.teacher_runtime = build_runtime(teacher_runtime)
        self.student_loss_weight = student_loss_weight
        self.student_ckpt = student_ckpt
        self.save_teacher = save_teacher or teacher_ckpt is None
        check_classes(self.teacher, self.student)
        check_preprocessing(self.teacher, self.data_preprocessor)
        check_batch_augments(self.student, self.data_preprocessor, written)
        # No buffer: hooks that average buffers over ranks would change it.
        self.teacher_sha256 = self._hash_teacher()
        self.teacher_file = str(teacher_ckpt or 'a random teacher')
        self.teacher.eval()
        self._register_state_dict_hook(_drop_teacher)
        self._register_load_state_dict_pre_hook(self._before_load)

    def _hash_teacher(self) -> Tensor:
        """Return the fingerprint of the loaded teacher, zeros for a random one."""
        if not self.teacher_is_loaded:
            return torch.zeros(32, dtype=torch.uint8)
        return fingerprint(self.teacher.state_dict())

    def init_weights(self) -> None:
        """Initialise student and distiller; the teacher is out of reach here."""
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
        return self

    def loss(
        self, batch_inputs: Tensor, data_samples: list | None = None
    ) -> dict[str, Tensor]:
        """Compute the student's own and the distillation losses of a batch.

        Args:
            batch_inputs (Tensor): Preprocessed images, (N, C, H, W).
            data_samples (list[DataSample], optional): Their annotations.

        Returns:
            dict[str, Tensor]: ``student.*`` and ``distill.*``; entries whose
            name contains ``loss`` are summed by mmengine.
        """
        distiller = self.distiller
        distiller.set_deliveries_override(False)
        with distiller.teacher_recorders, distiller.deliveries, torch.no_grad():
            self._run_teacher(batch_inputs, data_samples)
        if isinstance(data_samples, LabelBatch) and _concatenates(self.student):
            data_samples = data_samples.as_single()
        distiller.set_deliveries_override(True)
        with (
            distiller.student_recorders,
            distiller.deliveries,
            torch.set_grad_enabled(self.student_trainable and torch.is_grad_enabled()),
        ):
            losses = self.student(batch_inputs, data_samples, mode='loss')
        losses = self._own(losses) if self.calculate_student_loss else {}
        if not self.distillation_stopped:
            distilled = distiller.compute_distill_losses()
            losses.update(add_prefix(distilled, 'distill'))
        return losses

    def _run_teacher(self, batch_inputs: Tensor, data_samples: list | None) -> None:
        """Run the teacher, for what its recorders see."""
        if self.teacher_runtime is None:
            self.teacher(batch_inputs, data_samples, mode=self.teacher_mode)
            return
        recorders = self.distiller.teacher_recorders.recorders.values()
        self.teacher_runtime(self.teacher, batch_inputs, recorders)

    def _own(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what the head gave as ``student.*``, its losses weighted."""
        weight, weighted = self.student_loss_weight, dict(losses)
        if weight == 1.0:
            return add_prefix(losses, 'student')
        for name in [name for name in losses if 'loss' in name]:
            value = losses[name]
            is_list = isinstance(value, list)
            weighted[name] = [weight * x for x in value] if is_list else weight * value
        return add_prefix(weighted, 'student')

    def recorded_ranges(self) -> dict[str, Tensor]:
        """Return (min, max) of every score matrix recorded in the last step.

        Returns:
            dict[str, Tensor]: ``student.<recorder>`` or ``teacher.<recorder>``
            to a (2,) tensor on the scores' device.
        """
        ranges = {}
        for side in ('student', 'teacher'):
            recorders = getattr(self.distiller, f'{side}_recorders').recorders
            for name, recorder in recorders.items():
                data = recorder.data_buffer[0] if recorder.data_buffer else None
                if isinstance(data, nn.Parameter):
                    continue
                if isinstance(data, Tensor) and data.ndim == 2 and data.numel():
                    low, high = torch.aminmax(data.detach().float())
                    ranges[f'{side}.{name}'] = torch.stack([low, high])
        return ranges

    def _before_load(self, state_dict, prefix, *_) -> None:
        """Guard the teacher against any checkpoint loaded into the algorithm."""
        if not any(k.startswith(prefix + STUDENT_PREFIX) for k in state_dict):
            raise ValueError(
                describe(
                    'load_from',
                    f'a checkpoint with keys like {next(iter(state_dict), None)!r}',
                    'It is not a distillation checkpoint: nothing of it fits.',
                    'To start the student from a plain checkpoint write '
                    'model.student_ckpt=... instead of load_from.',
                )
            )
        other = state_dict.pop(f'{prefix}teacher_sha256', None)
        file = state_dict.pop(f'{prefix}teacher_file', None)
        if self.teacher_runtime is not None:
            self.teacher_runtime.reset()
        if not self.teacher_is_loaded:
            return
        own = {
            f'{prefix}{TEACHER_PREFIX}{k}': v
            for k, v in self.teacher.state_dict().items()
        }
        pairs = [(state_dict[k], v) for k, v in own.items() if k in state_dict]
        if other is not None:
            pairs.append((other, self.teacher_sha256))
        if not all(torch.equal(a.cpu(), b.cpu()) for a, b in pairs):
            before = 'another one' if file is None else repr(_text(file))
            raise ValueError(
                describe(
                    'model.teacher_ckpt',
                    self.teacher_file,
                    'It is not the teacher this checkpoint was trained with, '
                    f'which was {before} (SHA-256 differs).',
                    'Resume with the same teacher; to go on from this student '
                    'under another one write model.student_ckpt=... instead.',
                )
            )
        state_dict.update(own)


def _concatenates(student: nn.Module) -> bool:
    """Whether the student's head makes one tensor of the labels of its samples."""
    return getattr(type(student.head), '_get_loss', None) is ClsHead._get_loss


def _text(name: Tensor) -> str:
    """Return the text that a checkpoint keeps as a tensor of bytes."""
    return bytes(name.tolist()).decode(errors='replace')


def _drop_teacher(module, state_dict, prefix, _) -> None:
    """Leave the frozen teacher out of checkpoints; store its hash and file."""
    state_dict[f'{prefix}teacher_sha256'] = module.teacher_sha256
    # Weights are tensors, so the file's name is one too.
    name = list(module.teacher_file.encode())
    state_dict[f'{prefix}teacher_file'] = torch.tensor(name, dtype=torch.uint8)
    if not module.save_teacher:
        for key in [k for k in state_dict if k.startswith(prefix + TEACHER_PREFIX)]:
            del state_dict[key]
