"""What helps ``logit & single, network``? One change at a time, on held-out images.

The search that the protocol of ``cifar10-mini`` allows (docs/reproduce.md): scored on
the 1,001st to 1,500th training images of each class, never on the test set. The teacher
is that of ``tools/reproduce.py --table cifar10-mini``, and so are the students that
nothing is changed of, if their checkpoints are there. Can be killed and given again.
Writes ``results/cakd_search_cifar10-mini.json`` and prints the table.
"""

from pathlib import Path
from statistics import mean

import cakd_mm  # noqa: F401  (before any config is read: registers `cakd_mm::`)
from cakd_mm.reproduction.plan import plan
from cakd_mm.reproduction.study import count, study_parser, train_rows, write_study
from cakd_mm.reproduction.summary import scores_of
from cakd_mm.reproduction.tables import select
from cakd_mm.utils.paired_statistics import paired
from cakd_mm.utils.runs import Run, made_with
from cakd_mm.utils.scheduling import end

TABLE, SPEED = 'cifar10-mini', 'bf16'
BASE, RIVAL = 'CAKD logit & single, network', 'DKD'
HELD_OUT = [
    f'{loader}.dataset.{option}'
    for loader in ('val_dataloader', 'test_dataloader')
    for option in ('data_prefix=train', 'per_class=(1000,1500)')
]
LOSS = 'model.distiller.distill_losses.loss_feature'
MAPPING = 'model.distiller.loss_forward_mappings.loss_feature'
CHANGES = {
    'share 0.25': [f'{LOSS}.strong_share=0.25'],
    'share 0.75': [f'{LOSS}.strong_share=0.75'],
    'tau 2': [f'{LOSS}.tau=2.0'],
    'tau 8': [f'{LOSS}.tau=8.0'],
    'ratio 0.5': ['model.distiller.balancer.ratio=0.5'],
    'ratio 2': ['model.distiller.balancer.ratio=2.0'],
    'no warm-up': ['default_hooks.warmup.epochs=1'],
    'no connector': [
        f'{MAPPING}.preds_S.connector=None',
        'model.distiller.connectors=None',
    ],
}


def settings(
    seeds: int, work_dir: Path
) -> tuple[Run, dict[str, dict[int, Run]], list[Run]]:
    """Return the teacher's run, each setting's by seed, and the table's own."""
    pairs = select(TABLE, methods=[BASE, RIVAL])
    [planned] = plan(pairs, seeds, work_dir, SPEED)
    rows = {}
    for name in (BASE, RIVAL, *CHANGES):
        change = CHANGES.get(name, [])
        rows[name] = {}
        for seed, own in planned.rows[RIVAL if name == RIVAL else BASE].items():
            slug = name.replace(' ', '-').replace(',', '').replace('&', 'and')
            folder = work_dir / 'search' / f'{slug}_seed{seed}'
            rows[name][seed] = Run(
                f'{name}, seed {seed}',
                own.config,
                folder,
                [*own.options, *HELD_OUT, *change],
                own.teacher,
                # What the table has trained like this only has to be scored.
                None if change else _checkpoint(own),
            )
    table = [run for runs in planned.rows.values() for run in runs.values()]
    return planned.teacher, rows, table


def _checkpoint(run: Run) -> Path | None:
    path = run.last_checkpoint
    return path if run.finished and path.is_file() else None


def summarise(rows: dict[str, dict[int, Run]], table: list[Run]) -> dict:
    """Return each setting's scores and its paired difference to the base.

    ``table`` has the runs whose students are only scored here.
    """
    scores = {name: scores_of(runs) for name, runs in rows.items()}
    trained = [run for runs in rows.values() for run in runs.values()]
    scored = {run.checkpoint for run in trained}
    trained += [run for run in table if run.last_checkpoint in scored]
    found = {}
    for name, own in scores.items():
        difference = paired(own, scores[BASE]) if name != BASE else None
        found[name] = dict(
            scores=own,
            mean=mean(own.values()) if own else None,
            minus_base=vars(difference) if difference else None,
            text=str(difference) if difference else '',
        )
    finished = sum(map(len, scores.values()))
    return dict(**made_with(trained), finished=finished, settings=found)


def main() -> None:
    """Train what is missing and print the table."""
    parser = study_parser(__doc__, 'work_dirs/reproduce')
    parser.add_argument('--seeds', type=count, default=2, help='how many, from 0')
    args = parser.parse_args()
    teacher, rows, table = settings(args.seeds, args.work_dir)
    failed = {}
    if not args.table:
        by_row = [[*runs.values()] for runs in rows.values()]
        failed = train_rows(teacher, by_row, args.jobs)
    summary = dict(summarise(rows, table), failed=failed)
    write_study(args.out / f'cakd_search_{TABLE}.json', summary, args.work_dir)
    print('| setting | seeds | top-1 on held-out images | minus the base |')
    print('| --- | --- | --- | --- |')
    for name, row in summary['settings'].items():
        score = '' if row['mean'] is None else f'{row["mean"]:.2f}'
        print(f'| {name} | {len(row["scores"])} | {score} | {row["text"]} |')
    end(failed)


if __name__ == '__main__':
    main()
