"""What helps ``logit & single, network``? One change at a time, on held-out images.

The search that the protocol of ``cifar10-mini`` allows (docs/reproduce.md): scored on
the 1,001st to 1,500th training images of each class, never on the test set. The teacher
is that of ``tools/reproduce.py --table cifar10-mini``, and so are the students that
nothing is changed of, if their checkpoints are there. Can be killed and given again.
Writes ``results/cakd_search_cifar10-mini.json`` and prints the table.
"""

import argparse
from pathlib import Path
from statistics import mean

import cakd_mm  # noqa: F401  (before any config is read: registers `cakd_mm::`)
from cakd_mm.reproduction.plan import plan
from cakd_mm.reproduction.tables import select
from cakd_mm.utils.paired_statistics import paired
from cakd_mm.utils.provenance import commit, machine, versions
from cakd_mm.utils.runs import Run, write_json
from cakd_mm.utils.scheduling import Schedule, bars, slots

ROOT = Path(__file__).resolve().parents[2]
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
    'share 0.25': f'{LOSS}.strong_share=0.25',
    'share 0.75': f'{LOSS}.strong_share=0.75',
    'tau 2': f'{LOSS}.tau=2.0',
    'tau 8': f'{LOSS}.tau=8.0',
    'ratio 0.5': 'model.distiller.balancer.ratio=0.5',
    'ratio 2': 'model.distiller.balancer.ratio=2.0',
    'no warm-up': 'default_hooks.warmup.epochs=1',
    'no connector': f'{MAPPING}.preds_S.connector=None',
}


def settings(seeds: int, work_dir: Path) -> tuple[Run, dict[str, dict[int, Run]]]:
    """Return the teacher's run, and each setting's by seed."""
    pairs = select(TABLE, methods=[BASE, RIVAL])
    [planned] = plan(pairs, seeds, work_dir, SPEED)
    rows = {}
    for name in (BASE, RIVAL, *CHANGES):
        change = [CHANGES[name]] if name in CHANGES else []
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
    return planned.teacher, rows


def _checkpoint(run: Run) -> Path | None:
    path = run.last_checkpoint
    return path if run.finished and path.is_file() else None


def summarise(rows: dict[str, dict[int, Run]]) -> dict:
    """Return each setting's scores and its paired difference to the base."""
    scores = {
        name: {seed: run.top1 for seed, run in runs.items() if run.finished}
        for name, runs in rows.items()
    }
    table = {}
    for name, own in scores.items():
        difference = paired(own, scores[BASE]) if name != BASE else None
        table[name] = dict(
            scores=own,
            mean=mean(own.values()) if own else None,
            minus_base=vars(difference) if difference else None,
            text=str(difference) if difference else '',
        )
    return dict(commit=commit(), versions=versions(), machine=machine(), settings=table)


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seeds', type=int, default=2)
    parser.add_argument('--jobs', type=int, default=2)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/reproduce'))
    parser.add_argument('--out', type=Path, default=ROOT / 'results')
    args = parser.parse_args()
    teacher, rows = settings(args.seeds, args.work_dir)
    by_seed = [runs[seed] for seed in range(args.seeds) for runs in rows.values()]
    with bars() as progress:
        outcome = Schedule([teacher, *by_seed], slots(args.jobs), progress).run()
    summary = dict(summarise(rows), failed=outcome.failed)
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / f'cakd_search_{TABLE}.json', summary)
    print('| setting | seeds | top-1 on held-out images | minus the base |')
    print('| --- | --- | --- | --- |')
    for name, row in summary['settings'].items():
        score = '' if row['mean'] is None else f'{row["mean"]:.2f}'
        print(f'| {name} | {len(row["scores"])} | {score} | {row["text"]} |')
    if outcome.failed:
        raise SystemExit('\n'.join(f'{k}: {v}' for k, v in outcome.failed.items()))


if __name__ == '__main__':
    main()
