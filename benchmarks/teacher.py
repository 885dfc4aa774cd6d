"""Milliseconds of a teacher's forward pass: as it is, lossless and fast, in bf16.

Nets untrained, batch 64. Beside the time, how far the logits are from the plain ones,
relative to the largest.

    python benchmarks/teacher.py --teachers resnet56 wrn40-2
"""

from argparse import Namespace
from collections.abc import Callable
from functools import partial

import torch
from common import arguments, interleave, parse, save, summarize, table
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from torch import Tensor

import cakd_mm  # noqa: F401  (first: makes mmrazor importable)
from cakd_mm.models.runtime import TeacherRuntime

from mmrazor.models.task_modules import RecorderManager  # isort: skip
from steps import classifier, imagenet_resnet, resnet  # isort: skip

PLAIN = 'plain'
TEACHERS = {
    'resnet56': (lambda: resnet(56), 32),
    'resnet32x4': (
        lambda: classifier(
            dict(type='CIFARResNet', depth=32, widths=(32, 64, 128, 256)), 256
        ),
        32,
    ),
    'wrn40-2': (
        lambda: classifier(dict(type='CIFARWideResNet', depth=40, widen_factor=2), 128),
        32,
    ),
    'resnet34': (lambda: imagenet_resnet(34), 224),
}
SETTINGS = {
    'a copy': dict(compile=False),
    'compiled: lossless': dict(),
    'bf16, not compiled': dict(compile=False, dtype='bfloat16'),
    'bf16, compiled': dict(dtype='bfloat16'),
}


def runner(net, recorders: RecorderManager, options: dict) -> Callable:
    """Return what runs a teacher fast and gives its logits."""
    runtime = TeacherRuntime(**options)

    def run(inputs: Tensor) -> Tensor:
        with recorders:
            runtime(net, inputs, recorders.recorders.values())
        return recorders.get_recorder('head').get_record_data()

    return run


def measure(name: str, args: Namespace) -> list[dict]:
    """Time one teacher; return a row per variant."""
    config, size = TEACHERS[name]
    count = 2 if args.quick else args.batch_size
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        net = MODELS.build(config()).eval().to(device)
    recorders = RecorderManager(dict(head=dict(type='ModuleOutputs', source='head')))
    recorders.initialize(net)
    inputs = torch.randn(count, 3, size, size, device=device)

    @torch.no_grad()
    def plain(inputs: Tensor) -> Tensor:
        return net(inputs, mode='tensor')

    runs = {PLAIN: plain}
    for key, options in list(SETTINGS.items())[: 1 if args.quick else None]:
        runs[key] = runner(net, recorders, options)
    expected = plain(inputs)
    largest = expected.abs().max()
    off = {
        k: ((run(inputs) - expected).abs().max() / largest) for k, run in runs.items()
    }
    timed = {key: partial(run, inputs) for key, run in runs.items()}
    rows = summarize(interleave(timed, args.rounds, 0.2), PLAIN)
    print(f'\n{name}, batch {count}\n\n{table(rows, PLAIN)}\n')
    for row in rows:
        row['deviation'] = (off[row['variant']] / largest).item()
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
