"""Milliseconds of a teacher's forward pass: as it is, lossless and fast, in bf16.

The nets are untrained. Beside the time it prints how far the logits are from those of
the plain teacher, relative to the largest of these.

    python benchmarks/teacher.py --teachers resnet56 wrn40-2
"""

from argparse import Namespace
from collections.abc import Callable
from functools import partial

import torch
from common import arguments, device, interleave, parse, save, summarize, table
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from mmrazor.models.task_modules import RecorderManager
from steps import classifier, imagenet_resnet, resnet
from torch import Tensor, nn

from cakd_mm.models.runtime import TeacherRuntime

PLAIN = 'plain'
X4 = dict(type='CIFARResNet', depth=32, widths=(32, 64, 128, 256))
WIDE = dict(type='CIFARWideResNet', depth=40, widen_factor=2)
TEACHERS = {
    'resnet56': (lambda: resnet(56), 32),
    'resnet32x4': (lambda: classifier(X4, 256), 32),
    'wrn40-2': (lambda: classifier(WIDE, 128), 32),
    'resnet34': (lambda: imagenet_resnet(34), 224),
}
SETTINGS = {
    'a copy': dict(compile=False),
    'compiled: lossless': dict(),
    'bf16, not compiled': dict(compile=False, dtype='bfloat16'),
    'bf16, compiled': dict(dtype='bfloat16'),
}


def runners(net: nn.Module, settings: dict[str, dict]) -> dict[str, Callable]:
    """Return functions that map images (N, C, H, W) to logits (N, K), by name.

    Args:
        net: The teacher, a classifier of mmpretrain in eval mode.
        settings: By name, the settings of a :class:`TeacherRuntime` that runs it. The
            first function, ``PLAIN``, runs the teacher as it is.
    """
    recorders = RecorderManager(
        dict(head=dict(type='mmrazor.ModuleOutputs', source='head'))
    )
    recorders.initialize(net)

    def run(runtime: TeacherRuntime, inputs: Tensor) -> Tensor:
        with recorders:
            runtime(net, inputs, recorders.recorders.values())
        return recorders.get_recorder('head').get_record_data()

    @torch.no_grad()
    def plain(inputs: Tensor) -> Tensor:
        return net(inputs, mode='tensor')

    fast = {x: partial(run, TeacherRuntime(**own)) for x, own in settings.items()}
    return {PLAIN: plain, **fast}


def measure(name: str, args: Namespace) -> list[dict]:
    """Time one teacher; return a row per variant."""
    config, size = TEACHERS[name]
    count = 2 if args.quick else args.batch_size
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        net = MODELS.build(config()).eval().to(device())
    inputs = torch.randn(count, 3, size, size, device=device())
    runs = runners(net, dict(list(SETTINGS.items())[: 1 if args.quick else None]))
    expected = runs[PLAIN](inputs)
    largest = expected.abs().max()
    gaps = {key: (run(inputs) - expected).abs().max() for key, run in runs.items()}
    timed = {key: partial(run, inputs) for key, run in runs.items()}
    rows = summarize(interleave(timed, args.rounds, 0.2), PLAIN)
    print(f'\n{name}, batch {count}\n\n{table(rows, PLAIN)}\n')
    for row in rows:
        row['deviation'] = (gaps[row['variant']] / largest).item()
        print(f'{row["variant"]:28s} differs by {row["deviation"]:.1e}')
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument('--teachers', nargs='+', choices=TEACHERS, default=['resnet56'])
    parser.add_argument('--batch-size', type=int, default=64)
    args = parse(parser)
    results = {name: measure(name, args) for name in args.teachers}
    save(args, 'teacher', dict(batch_size=args.batch_size, teachers=results))


if __name__ == '__main__':
    main()
