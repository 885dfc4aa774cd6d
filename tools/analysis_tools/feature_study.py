"""The studies of docs/: train what is missing, then compare.

``digits`` and ``cifar10`` are every row of ``configs/cakd/ablations/<set>``, see
docs/feature_study.md; ``methods`` is one row of every method, on Digits, see
docs/methods_study.md. Each is run with the plain student, the same seeds and the same
budget. Runs that are finished are not repeated, half-finished ones go on from their
newest checkpoint, so that the command can be killed and given again. Writes
``results/feature_study_<set>.json`` and prints the table.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev

from mmengine.config import Config

from cakd_mm.reproduction.study import study_parser, train_rows, write_study
from cakd_mm.utils.errors import describe, nearest
from cakd_mm.utils.paired_statistics import level, paired
from cakd_mm.utils.runs import Run, made_with
from cakd_mm.utils.scheduling import end

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
TEACHERS = {
    'digits': 'vanilla/resnet20_digits.py',
    'cifar10': 'vanilla/resnet20_cifar10-16px.py',
    'methods': 'vanilla/resnet20_digits.py',
}
STUDENTS = {
    'digits': 'vanilla/resnet8_digits_30e.py',
    'cifar10': 'vanilla/resnet8_cifar10-16px.py',
    'methods': 'vanilla/resnet8_digits_30e.py',
}
ALONE, LOGIT, KD = 'student alone', 'logit', 'kd'
LONG = f'{ALONE}, twice as long'  # has it levelled off?
METHODS_PAIR = 'r20_r8_digits'
# By their protocol CAKD's rows have no warm-up; its configs on Digits got one later.
NOW_WARMED_UP = CONFIGS / 'cakd' / 'ablations' / 'digits'
NO_WARMUP = 'default_hooks.warmup.epochs=1'


def row_configs(name: str) -> dict[str, Path]:
    """Return the config of every row, the plain student's first."""
    student = CONFIGS / STUDENTS[name]
    ablations = CONFIGS / 'cakd' / 'ablations'
    if name == 'methods':
        own = sorted(CONFIGS.glob(f'*/*_{METHODS_PAIR}.py'))
        rows = {path.parent.name: path for path in own}
        for kind in (LOGIT, 'logit-single_network'):
            rows[f'cakd {kind}'] = ablations / 'digits' / f'digits_{kind}.py'
        first = {KD: rows.pop(KD)}
    else:
        own = sorted((ablations / name).glob('*.py'))
        rows = {path.stem.removeprefix(f'{name}_'): path for path in own}
        first = {LOGIT: rows.pop(LOGIT)}
    return {ALONE: student, **first, **rows, LONG: student}


def twice_as_long(config: Path) -> list[str]:
    """Return the options that stretch a schedule to twice its epochs."""
    cfg = Config.fromfile(config, import_custom_modules=False)
    train, milestones = cfg.train_cfg, cfg.param_scheduler.milestones
    last = train.max_epochs - train.get('val_begin', 1)  # mmengine's default
    return [
        f'train_cfg.max_epochs={2 * train.max_epochs}',
        f'train_cfg.val_begin={2 * train.max_epochs - last}',
        f'param_scheduler.milestones=[{",".join(str(2 * m) for m in milestones)}]',
    ]


def plan(args: argparse.Namespace) -> tuple[Run, dict[str, list[Run]]]:
    """Return the teacher's run, and each row's by seed."""
    config = CONFIGS / TEACHERS[args.set]
    base = args.work_dir / args.set
    teacher = Run('teacher', config, base / 'teacher', ['randomness.seed=0'])
    rows, configs = {}, row_configs(args.set)
    for row in args.rows or []:
        if row not in configs:
            problem = f'{args.set} has no such row.'
            remedy = f'Write {nearest(row, configs)}.'
            raise ValueError(describe('--rows', row, problem, remedy))
    for row, config in configs.items():
        if args.rows and row not in args.rows:
            continue
        rows[row] = []
        for seed in args.seeds:
            options = [f'randomness.seed={seed}']
            if row == LONG:
                options += twice_as_long(config)
            if config.parent == NOW_WARMED_UP:
                options.append(NO_WARMUP)
            own = None if row in (ALONE, LONG) else teacher
            folder = base / f'{row.replace(", ", "-").replace(" ", "-")}_seed{seed}'
            rows[row].append(Run(f'{row}, seed {seed}', config, folder, options, own))
    return teacher, rows


def summarise(name: str, teacher: Run, rows: dict[str, list[Run]]) -> dict:
    """Return all that the page needs, from finished runs only."""
    scores = {
        row: {i: run.top1 for i, run in enumerate(runs) if run.finished}
        for row, runs in rows.items()
    }
    table = {}
    for row, own in scores.items():
        entry = dict(seeds=len(own), each=[round(x, 2) for x in own.values()])
        if own:
            entry['mean'] = mean(own.values())
            entry['std'] = stdev(own.values()) if len(own) > 1 else None
        for control in controls_of(row, name):
            found = paired(own, scores.get(control, {}))
            if control != row and found and found.half is not None:
                entry[f'minus {control}'] = (found.mean, found.half)
        table[row] = entry
    alone = rows.get(ALONE, [])
    done = bool(alone) and all(run.finished for run in alone)
    return dict(
        set=name,
        teacher=teacher.top1 if teacher.finished else None,
        epochs=alone[0].epochs if alone else None,
        levelled_off_within=level([run.result['curve'] for run in alone])
        if done
        else None,
        **made_with([teacher, *(run for runs in rows.values() for run in runs)]),
        finished=sum(map(len, scores.values())),
        rows=table,
    )


def controls_of(row: str, name: str) -> tuple[str, ...]:
    """Return what a row is compared with: each column of the table, in order."""
    if name == 'methods':
        return (ALONE, KD)
    kind = row.rsplit('_', 1)[0]
    own = kind in ('single', 'logit-single')
    return (ALONE, LOGIT, *((f'{kind}_random', f'{kind}_kl') if own else ()))


def markdown(summary: dict) -> str:
    """Return the table of the page."""
    name = summary['set']
    head = ('row', 'seeds', 'top-1 %', 'over the student alone')
    if name == 'methods':
        head += ('over KD',)
    else:
        head += ('over logit', 'over its random control', 'over its plain KL')
    lines = ['| ' + ' | '.join(head) + ' |', '|' + ' --- |' * len(head)]
    for row, entry in summary['rows'].items():
        if not entry['seeds']:
            continue
        score = f'{entry["mean"]:.2f}'
        if entry['std'] is not None:
            score += f' ± {entry["std"]:.2f}'
        cells = [row, str(entry['seeds']), score]
        for control in controls_of(row, name):
            found = entry.get(f'minus {control}')
            cells.append(f'{found[0]:+.2f} ± {found[1]:.2f}' if found else '')
        cells += [''] * (len(head) - len(cells))
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def arguments(description: str | None, sets: Iterable[str]) -> argparse.ArgumentParser:
    """Return a parser with what a study of a set takes."""
    parser = study_parser(description, 'work_dirs/study')
    parser.add_argument('set', choices=sorted(sets))
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[0, 1, 2], action=Distinct
    )
    return parser


class Distinct(argparse.Action):
    """Refuses a seed given twice, whose one run would count as two."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Keep the seeds."""
        if len({*values}) < len(values):
            parser.error(f'{option_string} {values} has a seed twice')
        setattr(namespace, self.dest, values)


def main() -> None:
    """Run the study."""
    parser = arguments(__doc__, TEACHERS)
    parser.add_argument('--rows', nargs='+', help='only these rows')
    args = parser.parse_args()
    teacher, rows = plan(args)
    failed = {} if args.table else train_rows(teacher, rows.values(), args.jobs)
    summary = dict(summarise(args.set, teacher, rows), failed=failed)
    if not args.rows:
        path = args.out / f'feature_study_{args.set}.json'
        write_study(path, summary, args.work_dir)
    print(
        f'teacher {summary["teacher"]}, plain student level within '
        f'{summary["levelled_off_within"]}'
    )
    print(markdown(summary))
    end(failed)


if __name__ == '__main__':
    main()
