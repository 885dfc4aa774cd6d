"""Students trained in bf16 against students trained in float32, see docs/precision.md.

Three arms, the same seeds, the teachers of ``feature_study.py`` (trained if they are
not there). Can be killed and given again, as that can. Writes
``results/precision_study_<set>.json`` and prints the table.
"""

import argparse
from statistics import mean, stdev

from feature_study import CONFIGS, NO_WARMUP, TEACHERS, arguments

from cakd_mm.reproduction.study import train_rows, write_study
from cakd_mm.utils.paired_statistics import interval
from cakd_mm.utils.runs import Run, made_with
from cakd_mm.utils.scheduling import end

ABLATIONS = CONFIGS / 'cakd' / 'ablations'
STUDENTS = {
    'digits': ABLATIONS / 'digits' / 'digits_logit.py',
    'cifar10': ABLATIONS / 'cifar10' / 'cifar10_logit.py',
}
COMMON = {
    'digits': ['default_hooks.checkpoint.interval=10', NO_WARMUP],
    'cifar10': [
        'default_hooks.checkpoint.interval=8',
        'train_cfg.max_epochs=48',
        'train_cfg.val_begin=48',
        'param_scheduler.milestones=[30,36,42]',
    ],
}
FLOAT32 = 'float32'
FLOAT32_STUDENT = 'optim_wrapper.type=OptimWrapper'
BF16_STUDENT = ('optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.dtype=bfloat16')
BF16_TEACHER = 'model.teacher_runtime.dtype=bfloat16'
ARMS = {
    FLOAT32: [FLOAT32_STUDENT],
    'bf16 teacher': [FLOAT32_STUDENT, BF16_TEACHER],
    'bf16': [*BF16_STUDENT, BF16_TEACHER],
}


def plan(args: argparse.Namespace) -> tuple[Run, dict[str, list[Run]]]:
    """Return the teacher's run, and each arm's by seed."""
    base = args.work_dir / args.set
    config = CONFIGS / TEACHERS[args.set]
    teacher = Run('teacher', config, base / 'teacher', ['randomness.seed=0'])
    arms = {}
    for arm, own in ARMS.items():
        arms[arm] = []
        for seed in args.seeds:
            options = [
                f'randomness.seed={seed}',
                'train_cfg.resident=True',
                *COMMON[args.set],
                *own,
            ]
            folder = base / f'precision_{arm.replace(" ", "-")}_seed{seed}'
            name = f'{arm}, seed {seed}'
            arms[arm].append(Run(name, STUDENTS[args.set], folder, options, teacher))
    return teacher, arms


def within_noise(difference: float, half: float, noise: float) -> bool:
    """Tell whether a mean paired difference is no more than seeds make.

    Args:
        difference (float): Mean of the paired differences.
        half (float): Half the width of its interval.
        noise (float): Standard deviation of the float32 arm.
    """
    return bool(abs(difference) <= half and abs(difference) <= noise)


def summarise(name: str, teacher: Run, arms: dict[str, list[Run]]) -> dict:
    """Return all that the page needs, from the seeds that all arms have finished."""
    columns = zip(*arms.values(), strict=True)
    done = [all(run.finished for run in runs) for runs in columns]
    scores = {
        arm: [run.top1 for run, ok in zip(runs, done, strict=True) if ok]
        for arm, runs in arms.items()
    }
    table = {}
    for arm, own in scores.items():
        entry = dict(seeds=len(own), each=[round(x, 2) for x in own])
        if len(own) > 1:
            entry.update(mean=mean(own), std=stdev(own))
            if arm != FLOAT32:
                pairs = zip(own, scores[FLOAT32], strict=True)
                found = interval([a - b for a, b in pairs])
                entry[f'minus {FLOAT32}'] = found
                noise = table[FLOAT32]['std']
                entry['within_seed_noise'] = within_noise(*found, noise)
        table[arm] = entry
    return dict(
        set=name,
        teacher=teacher.top1 if teacher.finished else None,
        epochs=arms[FLOAT32][0].epochs,
        **made_with([teacher, *(run for runs in arms.values() for run in runs)]),
        finished=sum(map(len, scores.values())),
        arms=table,
    )


def markdown(summary: dict) -> str:
    """Return the table of the page."""
    lines = [
        f'| arm | seeds | top-1 % | each seed | over {FLOAT32} | within seed noise |',
        '|' + ' --- |' * 6,
    ]
    for arm, entry in summary['arms'].items():
        if 'mean' not in entry:
            continue
        cells = [arm, str(entry['seeds']), f'{entry["mean"]:.2f} ± {entry["std"]:.2f}']
        cells.append(', '.join(f'{x:.2f}' for x in entry['each']))
        found = entry.get(f'minus {FLOAT32}')
        if found:
            cells.append(f'{found[0]:+.2f} ± {found[1]:.2f}')
            cells.append('yes' if entry['within_seed_noise'] else 'no')
        else:
            cells += ['', '']
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main() -> None:
    """Run the study."""
    args = arguments(__doc__, STUDENTS).parse_args()
    teacher, arms = plan(args)
    failed = {} if args.table else train_rows(teacher, arms.values(), args.jobs)
    summary = dict(summarise(args.set, teacher, arms), failed=failed)
    path = args.out / f'precision_study_{args.set}.json'
    write_study(path, summary, args.work_dir)
    print(f'teacher {summary["teacher"]}')
    print(markdown(summary))
    end(failed)


if __name__ == '__main__':
    main()
