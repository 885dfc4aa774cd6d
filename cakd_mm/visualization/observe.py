"""What a feature loss of a run makes of validation images: scores and clusters."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DATASETS, DefaultScope
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ..engine import launch
from ..models.algorithms import FrozenTeacherDistill
from ..models.distillers.distiller_config import short_name
from ..models.layout import strongest
from ..models.losses.cakd_feature_loss import CAKDFeatureLoss, setting
from ..models.taps import Point, classes_of, gives_scores, points_of
from ..utils.checkpoint import load_strictly, read_checkpoint
from ..utils.errors import describe
from ..utils.type_names import class_name, resolved

# The name of a stage's tap, without that of a teacher.
STAGE = re.compile(r'stage\d$')
# In these granularities the clusters consist of channels of a feature.
CHANNELWISE = ('pooled', 'channel')


@dataclass
class Observation:
    """What a loss made of N images.

    Attributes:
        indices: The places of the images in the split.
        labels: The classes of each image.
        logits: The teacher's logits, (N, K); None if it has no classifier, or one of
            other classes.
        scores: The scores of the teacher's channels, (N, C).
        strong: Which channels are strong, bool, (N, C).
        score: What a score is: the name of the scorer's class, and its meaning.
        images: The images, (H, W, 3) in [0, 1], RGB; empty unless asked for.
        maps: The activation of the channels, (N, C, H, W); None unless asked for, or
            if the teacher has no such maps.
    """

    indices: list[int]
    labels: list[list[int]]
    logits: Tensor | None
    scores: Tensor
    strong: Tensor
    score: str
    images: list[np.ndarray]
    maps: Tensor | None


def class_of(loss: dict) -> type | None:
    """Return the class that the config of a loss names, None if there is none."""
    kind = resolved(loss['type'])
    return kind if isinstance(kind, type) else MODELS.get(kind)


def is_cakd_feature(loss: dict) -> bool:
    """Whether a loss is built from a CAKDFeatureLoss, or a subclass of it."""
    kind = class_of(loss)
    return kind is not None and issubclass(kind, CAKDFeatureLoss)


def distill_losses(cfg: Config, work_dir: Path) -> dict[str, dict]:
    """Return the configs of all distillation losses, by name.

    Raises:
        ValueError: the run distils nothing.
    """
    losses = (cfg.model.get('distiller') or {}).get('distill_losses')
    if not losses:
        kind = class_name(cfg.model.type)
        problem = f'It is of a run without distillation (model.type={kind!r}).'
        remedy = (
            'Name the work dir of a student with a teacher, of '
            'configs/cakd/demo_digits.py, say.'
        )
        raise ValueError(describe('WORK_DIR', str(work_dir), problem, remedy))
    return losses


def choose_loss(losses: dict[str, dict], name: str | None) -> str | None:
    """Return the feature loss to draw, the first one unless told; None without any.

    Raises:
        ValueError: there is no such loss, or it has no clusters of channels.
    """
    known = [
        key
        for key, loss in losses.items()
        if is_cakd_feature(loss) and setting(loss, 'granularity') in CHANNELWISE
    ]
    if name is None:
        return known[0] if known else None
    problem = f'The run has the losses {sorted(losses)}.'
    for key in losses:
        if name in (key, short_name(key)):
            if key in known:
                return key
            kind = class_name(losses[key]['type'])
            problem = f'It is a {kind} without clusters of channels.'
    remedy = 'Leave --loss out: terms.png shows all losses.'
    if known:
        remedy = f'Write --loss {" or ".join(known)}.'
    raise ValueError(describe('--loss', name, problem, remedy))


def latest_checkpoint(work_dir: Path) -> Path:
    """Return the checkpoint of the last epoch or iteration.

    Raises:
        FileNotFoundError: there is none.
    """
    found: dict[int, Path] = {}
    for file in work_dir.glob('*.pth'):
        if match := re.fullmatch(r'(?:epoch|iter)_(\d+)', file.stem):
            found[int(match[1])] = file
    if not found:
        problem = 'It holds no epoch_*.pth or iter_*.pth to take the scorer from.'
        remedy = 'Name one with --checkpoint, or wait for the first epoch to end.'
        raise FileNotFoundError(describe('WORK_DIR', str(work_dir), problem, remedy))
    return found[max(found)]


def build_algorithm(cfg: Config) -> FrozenTeacherDistill:
    """Build a run's model with its teacher, before any checkpoint of the run.

    Raises:
        FileNotFoundError, ValueError: the teacher is missing or does not fit.
    """
    config = cfg.model.copy()
    if cfg.get('data_preprocessor'):
        config.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(config)


def build_model(cfg: Config, checkpoint: Path) -> FrozenTeacherDistill:
    """Build the run's model with its teacher and the state in ``checkpoint``.

    Raises:
        FileNotFoundError, ValueError: a checkpoint is missing or does not fit.
    """
    remedy = 'Give an epoch_*.pth or iter_*.pth of this run.'
    found = read_checkpoint(str(checkpoint), '--checkpoint', remedy)
    weights = found.get('state_dict', found)
    model = build_algorithm(cfg)
    load_strictly(model, weights, '--checkpoint', str(checkpoint), remedy)
    return model.to(get_device()).eval()


def build_dataset(cfg: Config) -> BaseDataset:
    """Build the split that the run was validated on."""
    launch.check_data(cfg, ('val',))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(cfg.val_dataloader.dataset)


def labels_of(dataset: BaseDataset) -> list[list[int]]:
    """Return the classes of every image."""
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    return [np.atleast_1d(info['gt_label']).tolist() for info in infos]


def class_names(
    dataset: BaseDataset, found: Observation, labels: list[list[int]]
) -> list[str]:
    """Return the names of all classes, shortened; numbers where there are none.

    Args:
        dataset: It may know the names.
        found: It may have the teacher's scores.
        labels: The classes of every image.
    """
    names = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if found.logits is not None:
        classes = found.logits.shape[1]
    else:
        classes = max([len(names or ()), *(1 + max(own, default=-1) for own in labels)])
    if not names or len(names) != classes:
        names = range(classes)
    return [f'{name!s:.24}' for name in names]


def spread(labels: list[list[int]], count: int) -> list[int]:
    """Choose ``count`` images with as many classes, evenly, as there can be."""
    counts: dict[int, int] = {}
    order = []
    for index, label in enumerate(labels):
        first = label[0] if label else -1
        counts[first] = counts.get(first, 0) + 1
        order.append((counts[first], first, index))
    chosen = [index for _, _, index in sorted(order)]
    if count < len(counts):
        places = np.linspace(0, len(counts) - 1, count).round().astype(int)
        return [chosen[place] for place in places]
    return chosen[:count]


def check_images(images: list[int], size: int) -> None:
    """Raise an IndexError unless a split of that size has such images."""
    for index in images:
        if not 0 <= index < size:
            problem = f'The validation split has {size} images.'
            remedy = f'Write 0 to {size - 1}.'
            raise IndexError(describe('--images', index, problem, remedy))


def check_channels(count: int, channels: int) -> None:
    """Raise a ValueError unless so many of the channels can be shown."""
    if not 1 <= count <= channels:
        problem = f'The feature has {channels} channels.'
        raise ValueError(describe('--channels', count, problem, 'Write 1 to 10, say.'))


@torch.no_grad()
def run_loss(
    model: FrozenTeacherDistill,
    name: str,
    dataset: BaseDataset,
    indices: list[int],
    pictures: bool = False,
    batch: int = 64,
) -> Observation:
    """Show images to the model and record what the loss ``name`` makes of them.

    The loss is computed as in training, because its scorer then gets what the config
    maps to it. Images and maps of the teacher are recorded only with ``pictures``.
    """
    loss = model.distiller.distill_losses[name]
    scores, logits, labels, images, maps = [], [], [], [], []
    teacher = model.teacher
    # Scores of other classes would not say whether the teacher is right.
    same = classes_of(teacher) in (None, classes_of(model.student))
    with_scores = gives_scores(teacher) and same
    with plain_teacher(model), recorded(loss, teacher, with_scores) as outputs:
        for start in range(0, len(indices), batch):
            items = [dataset[index] for index in indices[start : start + batch]]
            data = model.data_preprocessor(pseudo_collate(items))
            model.loss(data['inputs'], data['data_samples'])
            scores.append(outputs['scores'].float().cpu())
            if 'logits' in outputs:
                logits.append(outputs['logits'].float().cpu())
            labels += [sample.gt_label.tolist() for sample in data['data_samples']]
            if pictures:
                images += originals(data, model.data_preprocessor)
                maps += maps_of(outputs)
    all_scores = torch.cat(scores)
    parts = type(loss.scorer).__name__, loss.scorer.meaning
    return Observation(
        indices=indices,
        labels=labels,
        logits=torch.cat(logits) if logits else None,
        scores=all_scores,
        strong=strongest(all_scores, loss.count(all_scores.shape[1])),
        score=', '.join(part for part in parts if part),
        images=images,
        maps=torch.stack(maps) if maps else None,
    )


@contextmanager
def plain_teacher(model: FrozenTeacherDistill) -> Iterator[None]:
    """Run the teacher as it is, because new hooks would compile its copy again."""
    runtime, model.teacher_runtime = model.teacher_runtime, None
    try:
        yield
    finally:
        model.teacher_runtime = runtime


@contextmanager
def recorded(
    loss: CAKDFeatureLoss, teacher: nn.Module, with_scores: bool
) -> Iterator[dict[str, Tensor]]:
    """Yield what the last batch left in a loss and in the teacher around it."""
    outputs: dict[str, Tensor] = {}

    def record(name: str, value: Tensor | tuple | list) -> None:
        """Store a feature; of those of several stages, the last."""
        outputs[name] = value[-1] if isinstance(value, tuple | list) else value

    def record_teacher(module: nn.Module, args: tuple, kwargs: dict) -> None:
        record('feature', kwargs['preds_T'])

    neck = getattr(teacher, 'neck', None)
    hooks = [
        loss.scorer.register_forward_hook(lambda m, a, out: record('scores', out)),
        loss.register_forward_pre_hook(record_teacher, with_kwargs=True),
    ]
    if with_scores:
        # Where there is no head, the net itself gives the scores.
        after = (getattr(teacher, 'head', None) or teacher).register_forward_hook
        hooks.append(after(lambda m, a, out: record('logits', out)))
    if neck is not None:
        before = neck.register_forward_pre_hook
        hooks.append(before(lambda m, a: record('before_neck', a[0])))
    for name, point in _last_stages(teacher).items():
        note = partial(_record_stage, record, name, point)
        hooks.append(teacher.get_submodule(point.module).register_forward_hook(note))
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _last_stages(teacher: nn.Module) -> dict[str, Point]:
    """Return the tap of the last map of a net, or of each of several."""
    points = points_of(teacher)
    stages = sorted(name for name in points if STAGE.search(name))
    # The last one of a net stays.
    return {STAGE.sub('', name): points[name] for name in stages}


def _record_stage(
    record: Callable, name: str, point: Point, module: nn.Module, _: Any, output: Any
) -> None:
    record(f'{name}stage', output if point.take is None else point.take(output))


def maps_of(outputs: dict[str, Tensor]) -> list[Tensor]:
    """Return each image's map whose channels the loss clusters, (C, H, W).

    The maps of a pooled feature went into the neck, or are those of a last stage whose
    mean it is. There may be no maps.
    """
    feature, before = outputs['feature'], outputs.get('before_neck')
    if isinstance(before, Tensor) and before.shape[:2] == feature.shape:
        feature = before
    stages = (value for name, value in outputs.items() if name.endswith('stage'))
    for stage in stages if feature.dim() == 2 else ():
        if stage.shape[:2] == feature.shape and torch.allclose(
            stage.mean((2, 3)), feature, rtol=1e-3, atol=1e-5
        ):
            feature = stage
            break
    return [*feature.float().cpu()] if feature.dim() == 4 else []


def originals(data: dict, preprocessor: nn.Module) -> list[np.ndarray]:
    """Undo the normalisation: (H, W, 3) in [0, 1], RGB."""
    images = data['inputs'].float()
    if hasattr(preprocessor, 'mean'):
        images = images * preprocessor.std + preprocessor.mean
    images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    # Images that were read from files are BGR until a preprocessor turns them.
    if not preprocessor.to_rgb and 'img_path' in data['data_samples'][0]:
        images = images.flip(1)
    return [*(images / 255).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()]


def shares_by_class(strong: Tensor, labels: list[list[int]], classes: int) -> Tensor:
    """Return how often each channel is strong in images of each class.

    Args:
        strong: bool, (N, C).
        labels: The classes of every image.
        classes: Number of classes, K.

    Returns:
        Tensor: Shares, (K, C); nan for classes without an image.
    """
    members = torch.zeros(len(labels), classes, dtype=torch.float64)
    for row, own in zip(members, labels, strict=True):
        row[own] = 1
    return members.T @ strong.double() / members.sum(0)[:, None]
