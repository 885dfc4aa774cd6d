"""Does a warm-up keep students alive that learn from several losses?

On Digits, the two rows of CAKD of which a student once died in its first epochs, each
without a warm-up and with one of three epochs (docs/reproduce.md has the protocol). A
student is dead if its own loss in the last epoch is that of a guess, or if nan or inf
ended its training: only the training split is looked at. Can be killed and given
again. Writes ``results/warmup_study_digits.json`` and prints the table.
"""

import math
from pathlib import Path

from scipy import stats

import cakd_mm  # noqa: F401  (before any config is read: registers `cakd_mm::`)
from cakd_mm.engine.hooks import NonFiniteError
from cakd_mm.reproduction.budget import length_options, speed_options
from cakd_mm.reproduction.plan import plan
from cakd_mm.reproduction.study import count, study_parser, train_rows, write_study
from cakd_mm.reproduction.tables import select
from cakd_mm.utils.runs import Run, made_with, read_config
from cakd_mm.utils.scheduling import end

CONFIGS = Path(__file__).resolve().parents[2] / 'configs/cakd/ablations/digits'
TABLE, SPEED, EPOCHS, CLASSES = 'digits', 'resident', 30, 10
ROWS = ('logit-single_activation', 'logit-double_activation')
WARMUPS = (1, 3)  # epochs; one is none
OWN_LOSS, STOPPED = 'student.loss', NonFiniteError.__name__
GUESS = 0.9 * math.log(CLASSES)  # the loss of a guess, less what its noise may take


def settings(seeds: int, work_dir: Path) -> tuple[Run, dict[str, list[Run]]]:
    """Return the teacher's run, and the runs of each row with each warm-up."""
    pairs = select(TABLE, methods=['KD'])
    [planned] = plan(pairs, 1, work_dir, SPEED)
    rows = {}
    for row in ROWS:
        config = CONFIGS / f'digits_{row}.py'
        options = length_options(read_config(config), EPOCHS, TABLE)
        options += speed_options(SPEED, TABLE, distils=True)
        for epochs in WARMUPS:
            name = f'{row}, {"no warm-up" if epochs == 1 else f"{epochs} epochs"}'
            rows[name] = [
                Run(
                    f'{name}, seed {seed}',
                    config,
                    work_dir / 'warmup' / f'{row}_{epochs}_seed{seed}',
                    [
                        f'randomness.seed={seed}',
                        *options,
                        f'default_hooks.warmup.epochs={epochs}',
                    ],
                    planned.teacher,
                )
                for seed in range(seeds)
            ]
    return planned.teacher, rows


def summarise(rows: dict[str, list[Run]]) -> dict:
    """Return what each student's own loss ended at, and how many are dead."""
    table = {}
    for name, runs in rows.items():
        curves = [run.curve(OWN_LOSS) for run in runs if run.finished]
        ends = [curve[-1][1] for curve in curves]
        stopped = sum(STOPPED in (run.failure or '') for run in runs)
        dead = sum(loss > GUESS for loss in ends) + stopped
        table[name] = dict(runs=len(ends) + stopped, dead=dead, last_losses=ends)
    every = [run for runs in rows.values() for run in runs]
    finished = sum(row['runs'] for row in table.values())
    return dict(**made_with(every), finished=finished, rows=table, p=fisher(table))


def fisher(table: dict[str, dict]) -> float:
    """Return Fisher's p of as many dead with a warm-up as without, over all rows."""
    counts = [[0, 0] for _ in WARMUPS]  # dead, alive
    for index, row in enumerate(table.values()):
        arm = counts[index % len(WARMUPS)]
        arm[0] += row['dead']
        arm[1] += row['runs'] - row['dead']
    return float(stats.fisher_exact(counts).pvalue)


def main() -> None:
    """Train what is missing and print the table."""
    parser = study_parser(__doc__, 'work_dirs/reproduce')
    parser.add_argument('--seeds', type=count, default=8, help='how many, from 0')
    args = parser.parse_args()
    teacher, rows = settings(args.seeds, args.work_dir)
    failed = {} if args.table else train_rows(teacher, rows.values(), args.jobs)
    summary = dict(summarise(rows), failed=failed)
    write_study(args.out / f'warmup_study_{TABLE}.json', summary, args.work_dir)
    print("| row | runs | dead | highest last loss of a student's own |")
    print('| --- | --- | --- | --- |')
    for name, row in summary['rows'].items():
        worst = f'{max(row["last_losses"]):.3f}' if row['last_losses'] else ''
        print(f'| {name} | {row["runs"]} | {row["dead"]} | {worst} |')
    print(f"Fisher's p {summary['p']:.3f}")
    end(failed)


if __name__ == '__main__':
    main()
