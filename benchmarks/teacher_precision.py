"""Top-1 of trained teachers in float32, as they are and fast, and in fast bfloat16.

On real images: the whole test split, and the training split without augmentation.

    python benchmarks/teacher_precision.py --teacher <config> <checkpoint>
"""

from collections.abc import Callable
from pathlib import Path

import torch
from common import ROOT, arguments, parse, save
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor

import cakd_mm  # noqa: F401  (first: makes mmrazor importable)
from cakd_mm.engine.launch import build_runner, build_test_runner
from cakd_mm.models.runtime import TeacherRuntime
from cakd_mm.utils.errors import describe

DIGITS = ROOT / 'configs' / 'vanilla' / 'resnet20_digits.py'
PLAIN = 'float32, as it is'
FAST = {'float32, fast': 'float32', 'bfloat16, fast': 'bfloat16'}
BOUND = 0.1  # points of top-1


def loaders(cfg: Config) -> dict[str, dict]:
    """Return the configs of both splits' loaders, without augmentation."""
    test = cfg.test_dataloader
    dataset = {**cfg.train_dataloader.dataset, 'pipeline': test.dataset.pipeline}
    return dict(test=test, train={**test, 'dataset': dataset})


class Logits:
    """What a classifier's head gives, seen by a hook as recorders do.

    Args:
        model (nn.Module): A classifier of mmpretrain, in eval mode.
        dtype (str, optional): That of a :class:`TeacherRuntime` which runs it; None
            runs it as it is.
    """

    def __init__(self, model: torch.nn.Module, dtype: str | None = None) -> None:
        self.model = model
        self.runtime = None if dtype is None else TeacherRuntime(dtype=dtype)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the logits (N, C) of images (N, C, H, W)."""
        seen = []
        handle = self.model.head.register_forward_hook(
            lambda head, taken, given: seen.append(given.clone())
        )
        try:
            if self.runtime is None:
                self.model(inputs, mode='tensor')
            else:
                self.runtime(self.model, inputs, [])
        finally:
            handle.remove()
        return seen[-1].float()


def score(
    loader, preprocess: Callable, variants: dict[str, Logits], batches: int | None
) -> list[dict]:
    """Return a row per variant: top-1, and what differs from the plain teacher."""
    logits: dict[str, list[Tensor]] = {name: [] for name in variants}
    labels = []
    for index, batch in enumerate(loader):
        if index == batches:
            break
        data = preprocess(batch, False)
        labels += [int(sample.gt_label) for sample in data['data_samples']]
        for name, run in variants.items():
            logits[name].append(run(data['inputs']).cpu())
    truth = torch.tensor(labels)
    plain = torch.cat(logits[PLAIN])
    rows = []
    for name, parts in logits.items():
        found = torch.cat(parts)
        same = found.argmax(1) == plain.argmax(1)
        rows.append(
            dict(
                variant=name,
                images=len(truth),
                top1=100 * (found.argmax(1) == truth).double().mean().item(),
                same_predictions=100 * same.double().mean().item(),
                largest_deviation=(found - plain).abs().max().item(),
                largest_logit=plain.abs().max().item(),
            )
        )
    for row in rows:
        row['points'] = row['top1'] - rows[0]['top1']
    return rows


def compare(cfg: Config, checkpoint: str | None, batches: int | None) -> dict:
    """Return the rows of both splits."""
    cfg.work_dir, cfg.log_level, cfg.launcher = 'work_dirs/benchmark', 'ERROR', 'none'
    if checkpoint is None:
        runner = build_runner(cfg)
        runner.model.init_weights()
    else:
        runner = build_test_runner(cfg, checkpoint)
    model = runner.model.eval()
    variants = {PLAIN: Logits(model)}
    variants.update({name: Logits(model, dtype) for name, dtype in FAST.items()})
    return {
        split: score(
            Runner.build_dataloader(loader), model.data_preprocessor, variants, batches
        )
        for split, loader in loaders(cfg).items()
    }


def table(splits: dict[str, list[dict]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        '| split | images | teacher | top-1 % | points | equal predictions % '
        '| largest deviation of a logit | largest logit |',
        '|' + ' --- |' * 8,
    ]
    for split, rows in splits.items():
        for row in rows:
            lines.append(
                f'| {split} | {row["images"]} | {row["variant"]} | {row["top1"]:.2f} '
                f'| {row["points"]:+.2f} | {row["same_predictions"]:.2f} '
                f'| {row["largest_deviation"]:.2g} | {row["largest_logit"]:.1f} |'
            )
    return '\n'.join(lines)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        '--teacher',
        nargs=2,
        action='append',
        metavar=('CONFIG', 'CHECKPOINT'),
        help='may be given again; with --quick a random one is taken',
    )
    args = parse(parser)
    if not args.teacher and not args.quick:
        parser.error(
            describe(
                '--teacher', None, 'No teacher to score.', 'Name config and checkpoint.'
            )
        )
    results = {}
    for config, checkpoint in args.teacher or [(DIGITS, None)]:
        cfg = Config.fromfile(config)
        splits = compare(cfg, checkpoint, 1 if args.quick else None)
        name = Path(config).stem
        bf16 = list(FAST)[-1]
        largest = max(
            abs(row['points'])
            for rows in splits.values()
            for row in rows
            if row['variant'] == bf16
        )
        verdict = 'within' if largest <= BOUND else 'NOT within'
        print(f'\n{name}: {bf16} is {verdict} {BOUND} point of {PLAIN}\n')
        print(table(splits))
        results[name] = splits
    save(args, 'teacher_precision', dict(bound_points=BOUND, teachers=results))


if __name__ == '__main__':
    main()
