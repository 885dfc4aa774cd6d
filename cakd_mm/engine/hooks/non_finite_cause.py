"""Says what made a loss nan or inf, from what a stopped run still knows."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from ...datasets.views import joined
from ...models.algorithms.teacher_shards import local_part
from ...utils.model import unwrap

# Scores, and pixels before they are normalised, are far below these in a sound run.
HUGE_SCORE = 1e4
HUGE_PIXEL = 1e6
LOSSES = 'model.distiller.distill_losses'


@dataclass
class BadStep:
    """What is known of a step with a loss that is not finite.

    Attributes:
        bad: The components that are not finite on some rank, with the values of this
            rank.
        scores: Least and greatest score of each recorder, ``student.logits``, say.
        batch: The step's batch as the loader gave it; None if it is gone.
        is_first: Whether no step of this process came before it.
    """

    bad: dict[str, float]
    scores: dict[str, list[float]]
    batch: Any
    is_first: bool

    def reach(self, side: str) -> float | None:
        """Return the largest magnitude of a net's scores, inf if one is not finite.

        None means that no scores of this net were recorded.
        """
        ends = [
            abs(end) if isfinite(end) else inf
            for name, pair in self.scores.items()
            if name.startswith(f'{side}.')
            for end in pair
        ]
        return max(ends, default=None)


def cause_of(step: BadStep, runner) -> str:
    """Return the most probable cause and what to do, in sentences.

    Images are looked at first, then the teacher, the student and the losses, because
    each spoils those that follow.
    """
    if all(map(isfinite, step.bad.values())):
        return 'The cause is in the message of the rank whose loss is not finite.'
    image = _extreme_image(step.batch)
    if image is not None:
        return f'{image}. Mend or remove it, or correct the pipeline.'
    model = unwrap(runner.model)
    teacher, student = step.reach('teacher'), step.reach('student')
    if teacher is not None and teacher > HUGE_SCORE:
        return _of_teacher(teacher, model.teacher)
    if student is not None and student > HUGE_SCORE:
        return _of_student(student, step.is_first, runner)
    names = step.bad.keys() - {'loss'}
    if names and all(name.startswith('distill.') for name in names):
        return _of_losses(sorted({name.split('.')[1] for name in names}), runner)
    if student is None or not names:
        return lower_the_rate(runner)
    owner = 'head.' if getattr(model.student, 'head', None) is not None else ''
    return (
        "All scores are as they should be, so it is the student's own loss: look for "
        f'wrong labels in this batch, and at model.architecture.{owner}loss.'
    )


def lower_the_rate(runner) -> str:
    """Return what to do against updates that are too large."""
    rates = (max(group) for group in runner.optim_wrapper.get_lr().values())
    return (
        f'Lower optim_wrapper.optimizer.lr, which is {max(rates):.4g} in this step, or '
        'clip gradients with optim_wrapper.clip_grad=dict(max_norm=5); under fp16 use '
        'bfloat16.'
    )


def _extreme_image(batch: Any) -> str | None:
    """Name the first image of a batch with a pixel that is huge, nan or inf."""
    if not isinstance(batch, Mapping) or 'inputs' not in batch:
        return None
    batch = joined(batch)
    for place, image in enumerate(batch['inputs']):
        if not isinstance(image, Tensor) or not image.is_floating_point():
            continue
        peak = image.abs().max().item()
        if not peak <= HUGE_PIXEL:
            samples = batch.get('data_samples')
            sample = samples[place] if samples else {}
            source = sample.get('img_path') or f'number {sample.get("sample_idx")}'
            return f'Image {place} of the batch ({source}) has a pixel of {peak:.4g}'
    return None


def _of_teacher(reach: float, teacher: nn.Module) -> str:
    for name, value in teacher.state_dict().items():
        if not torch.isfinite(local_part(value)).all():
            return (
                f"The teacher's {name} is not finite, and so its scores are not: give "
                'another model.teacher_ckpt.'
            )
    found = _in_words(reach)
    return (
        f"The teacher's scores {found} although its weights are finite: look "
        'for extreme pixels in this batch, and at data_preprocessor.mean and std, '
        'where a std of 0 makes pixels inf. If the teacher computes in fp16, let it '
        'compute in bfloat16; if other batches give such scores too, give another '
        'model.teacher_ckpt.'
    )


def _of_student(reach: float, is_first: bool, runner) -> str:
    found = _in_words(reach)
    if is_first:
        return (
            f"The student's scores {found} before any update, so it began with "
            'wrong weights: look at model.student_ckpt, load_from, the checkpoint that '
            'was resumed, and init_cfg.'
        )
    return (
        f"The student's scores {found}, because the updates before this step "
        f'were too large. {lower_the_rate(runner)}'
    )


def _in_words(reach: float) -> str:
    return 'are not finite' if reach == inf else f'reach {reach:.4g}'


def _of_losses(names: list[str], runner) -> str:
    """Name distillation losses that alone are not finite, with their settings."""
    losses = unwrap(runner.model).distiller.distill_losses
    found = []
    for name in names:
        settings = [type(losses[name]).__name__]
        for setting in ('tau', 'loss_weight'):
            if hasattr(losses[name], setting):
                settings.append(f'{setting}={getattr(losses[name], setting)}')
        found.append(f'{LOSSES}.{name} ({", ".join(settings)})')
    return (
        f"The student's scores and its own loss are finite, so look at "
        f'{" and ".join(found)}: at the settings, and at the features that it '
        'compares. If it, or its connector, is trained, its updates may have been too '
        f'large. {lower_the_rate(runner)}'
    )
