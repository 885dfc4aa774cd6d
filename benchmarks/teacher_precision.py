"""Top-1 of trained teachers in float32, as they are and fast, and in fast bfloat16.

The images are real: the whole test split, and the training split without augmentation.

    python benchmarks/teacher_precision.py --teacher <config> <checkpoint>
"""

from collections.abc import Callable
from pathlib import Path

import torch
from common import ROOT, arguments, parse, save
from mmengine.config import Config
from mmengine.runner import Runner
from teacher import PLAIN as AS_IT_IS
from teacher import runners
from torch import Tensor

from cakd_mm.engine.launch import build_runner, build_test_runner
from cakd_mm.utils.errors import describe

DIGITS = ROOT / 'configs' / 'vanilla' / 'resnet8_digits.py'
PLAIN = 'float32, as it is'
FAST = {'float32, fast': 'float32', 'bfloat16, fast': 'bfloat16'}
BOUND = 0.1  # points of top-1


def loaders(cfg: Config) -> dict[str, dict]:
    """Return the configs of both splits' loaders, without augmentation."""
    test = cfg.test_dataloader
    dataset = {**cfg.train_dataloader.dataset, 'pipeline': test.dataset.pipeline}
    return dict(test=test, train={**test, 'dataset': dataset})


def score(
    loader, preprocess: Callable, variants: dict[str, Callable], batches: int | None
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
            # A copy, because the next batch may be written into the same memory.
            logits[name].append(run(data['inputs']).float().cpu().clone())
    truth = torch.tensor(labels)
    plain = torch.cat(logits[PLAIN])
    rows: list[dict] = []
    for name, parts in logits.items():
        found = torch.cat(parts)
        row = dict(
            variant=name,
            images=len(truth),
            top1=percent_equal(found.argmax(1), truth),
            same_predictions=percent_equal(found.argmax(1), plain.argmax(1)),
            largest_deviation=(found - plain).abs().max().item(),
            largest_logit=plain.abs().max().item(),
        )
        rows.append(row)
        row['points'] = row['top1'] - rows[0]['top1']
    return rows


def percent_equal(a: Tensor, b: Tensor) -> float:
    """Return how many classes are the same, in percent."""
    return 100 * (a == b).double().mean().item()


def compare(cfg: Config, checkpoint: str | None, batches: int | None) -> dict:
    """Return the rows of both splits, of a few small batches or of all images."""
    if batches is not None:
        cfg.test_dataloader.batch_size = 4
    cfg.work_dir, cfg.log_level, cfg.launcher = 'work_dirs/benchmark', 'ERROR', 'none'
    if checkpoint is None:
        runner = build_runner(cfg)
        runner.model.init_weights()
    else:
        runner = build_test_runner(cfg, checkpoint)
    model = runner.model.eval()
    runs = runners(model, {name: dict(dtype=x) for name, x in FAST.items()})
    variants = {PLAIN: runs.pop(AS_IT_IS), **runs}
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
        remedy = 'Name config and checkpoint.'
        parser.error(describe('--teacher', None, 'No teacher to score.', remedy))
    results = {}
    for config, checkpoint in args.teacher or [(DIGITS, None)]:
        cfg = Config.fromfile(config)
        splits = compare(cfg, checkpoint, 1 if args.quick else None)
        name = Path(config).stem
        # The last row of a split is that of bfloat16.
        largest = max(abs(rows[-1]['points']) for rows in splits.values())
        verdict = 'within' if largest <= BOUND else 'NOT within'
        print(f'\n{name}: bfloat16 is {verdict} {BOUND} point of float32\n')
        print(table(splits))
        results[name] = splits
    save(args, 'teacher_precision', dict(bound_points=BOUND, teachers=results))


if __name__ == '__main__':
    main()
