"""The losses of CAKD beside mmrazor's DKDLoss: forward and backward, float32.

All take the same two matrices of random scores. The feature loss is timed twice: as the
weighted divergences alone, which get a mask, and as the whole module, which ranks the
channels first.
"""

from collections.abc import Callable

import common
import torch
import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from cakd_mm.models.layout import strongest
from cakd_mm.models.losses.functional import weighted_kl

SIZES = [(64, 100), (128, 200), (256, 1000), (1024, 1000)]
TAU = 4.0
FEATURE_WEIGHTS = 1.0, 8.0, 2.0
BASELINE = "mmrazor's DKDLoss"


def build(kind: str, **settings) -> torch.nn.Module:
    """Build a loss and move it to the GPU, if there is one."""
    return MODELS.build(dict(type=kind, tau=TAU, **settings)).to(common.device())


def scores(rows: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores of a student and a teacher >= 0, and a label per row."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, rows, classes, generator=draw)
    labels = torch.randint(classes, (rows,), generator=draw)
    drawn = student.contiguous(), teacher.relu(), labels
    return tuple(tensor.to(common.device()) for tensor in drawn)


def step(loss: Callable[..., Tensor], student: Tensor, *others) -> Callable:
    """Return a function that runs the loss forward and backward."""
    leaf = student.clone().requires_grad_()

    def run() -> None:
        leaf.grad = None
        loss(leaf, *others).backward()

    return run


def plain_kd(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
    """Return KD between class scores."""
    inside = F.log_softmax(student / TAU, 1), F.softmax(teacher / TAU, 1)
    return TAU**2 * F.kl_div(*inside, reduction='batchmean')


def weighted(function: Callable | None = None) -> Callable[..., Tensor]:
    """Return the feature loss without its scorer: takes a mask."""

    def loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        weights = (TAU**2 * weight for weight in FEATURE_WEIGHTS)
        return weighted_kl(student, teacher, mask, TAU, *weights, function)[0]

    return loss


def variants(rows: int, classes: int) -> dict[str, Callable]:
    """Return what is compared at a size."""
    student, teacher, labels = scores(rows, classes)
    mask = strongest(teacher, classes // 2)
    logit, feature = 'CAKDLogitLoss', 'CAKDFeatureLoss'
    compiled = build(feature, compile=True)
    inputs = student, teacher
    return {
        BASELINE: step(build('DKDLoss', beta=8.0), *inputs, labels),
        'plain KD': step(plain_kd, *inputs, labels),
        'logit loss': step(build(logit), *inputs, labels),
        'logit loss, compiled': step(build(logit, compile=True), *inputs, labels),
        'feature divergences': step(weighted(), *inputs, mask),
        'feature divergences, compiled': step(
            weighted(compiled._function), *inputs, mask
        ),
        'feature loss': step(build(feature), *inputs),
        'feature loss, compiled': step(compiled, *inputs),
    }


def main() -> None:
    """Time all sizes and print a table of each."""
    args = common.parse(common.arguments(__doc__))
    results = {}
    for rows, classes in SIZES[:1] if args.quick else SIZES:
        times = common.interleave(variants(rows, classes), args.rounds, 0.05)
        results[f'{rows}x{classes}'] = common.summarize(times, BASELINE)
        print(f'\n{rows} x {classes}\n')
        print(common.table(results[f'{rows}x{classes}'], BASELINE), flush=True)
    threads = torch.get_num_threads()
    common.save(args, f'loss_{threads}threads', dict(sizes=results))


if __name__ == '__main__':
    main()
