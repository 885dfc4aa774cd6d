"""What finished runs say, for the page and for machines."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from cakd_mm.visualization.conclusions import (
    Comparison,
    conclude_from,
    held_together,
)
from cakd_mm.visualization.paired_statistics import level, paired

from .plan import PlannedPair, in_turn
from .runs import Run, made_with
from .tables import CONTROL, KD, STUDENT, TEACHER

NEAR = 1.0  # Seeds and versions may move a number so many points from the paper's.
COLLAPSED = 0.5  # A run below this share of the plain student's mean has not learned.


def summarise(
    planned: Sequence[PlannedPair], speed: str, held_out: bool = False
) -> dict:
    """Return all that the page needs; only finished runs count.

    Args:
        planned (Sequence[PlannedPair]): The table.
        speed (str): How it was run, see :func:`budget.speed_options`.
        held_out (bool): Whether students are scored on held-out training images.
            Defaults to False.
    """
    runs = in_turn(planned)
    done = [run for run in runs if run.finished]
    return dict(
        speed=speed,
        held_out=held_out,
        **made_with(done),
        hours=round(sum(run.result['seconds'] for run in done) / 3600, 2),
        finished=len(done),
        planned=len(runs),
        pairs=[_pair(pair) for pair in planned],
    )


def _pair(planned: PlannedPair) -> dict:
    scores = {name: scores_of(runs) for name, runs in planned.rows.items()}
    rows = {
        name: _row(planned, name, runs, scores) for name, runs in planned.rows.items()
    }
    alone = [run for run in planned.rows[STUDENT].values() if run.finished]
    moves = level([run.result['curve'] for run in alone])
    teacher = planned.teacher
    return dict(
        pair=planned.pair.name,
        data=planned.pair.data,
        title=planned.pair.title,
        epochs=planned.epochs,
        recipe=planned.recipe,
        teacher=dict(
            run=teacher.name,
            top1=teacher.top1 if teacher.finished else None,
            published=planned.pair.row('teacher').published,
            failed=teacher.failure,
            given=str(teacher.checkpoint) if teacher.checkpoint else None,
            sha256=teacher.result['checkpoint_sha256'] if teacher.finished else None,
        ),
        student_moves=moves,
        rows=rows,
        sentences=[
            *compare_with_paper(planned, scores),
            *missing_seeds(planned, scores),
            *collapsed(scores),
            *conclude(scores, moves, _planned(planned)),
        ],
    )


def compare_with_paper(
    planned: PlannedPair, scores: Mapping[str, Mapping[int, float]]
) -> list[str]:
    """Say whether teacher and plain student are where the paper's are.

    Neither depends on a method, so a gap comes from data, image size or recipe.
    Nothing is said of a scaled budget or an unfinished pair.
    """
    rows = [planned.pair.row(name) for name in (TEACHER, STUDENT)]
    published = [row.published for row in rows if row.published is not None]
    found = scores[STUDENT]
    if planned.epochs != planned.recipe or len(published) < len(rows):
        return []
    if not (planned.teacher.finished and found):
        return []
    ours = planned.teacher.top1, mean(found.values())
    gaps = [a - b for a, b in zip(ours, published, strict=True)]
    text = (
        f'Teacher {ours[0]:.2f} and plain student {ours[1]:.2f} against the '
        f"paper's {published[0]:.2f} and {published[1]:.2f} ({gaps[0]:+.2f}, "
        f'{gaps[1]:+.2f}): '
    )
    if max(map(abs, gaps)) <= NEAR:
        return [f'{text}both within {NEAR:g} point, as from the same data and recipe.']
    return [
        f'{text}more than {NEAR:g} point apart, so that data, image size or recipe '
        "differ from the paper's, and gains are compared rather than levels."
    ]


def missing_seeds(
    planned: PlannedPair, scores: Mapping[str, Mapping[int, float]]
) -> list[str]:
    """Say that what is concluded is for now, if planned seeds have not run."""
    missing = sum(len(runs) - len(scores[name]) for name, runs in planned.rows.items())
    if not missing:
        return []
    return [
        f'{missing} of the planned runs are missing: what is called above or below '
        'here is for now, and of two seeds alone may be chance.'
    ]


def collapsed(scores: Mapping[str, Mapping[int, float]]) -> list[str]:
    """Name the runs that have not learned, because one of them rules its row's mean."""
    alone = scores[STUDENT].values()
    least = COLLAPSED * mean(alone) if alone else 0.0
    found = [
        f'{name}, seed {seed} ({score:.2f} %)'
        for name, by_seed in scores.items()
        for seed, score in by_seed.items()
        if score < least
    ]
    if not found:
        return []
    return [
        f'**Not learned: {"; ".join(found)}**: below half of the plain student. '
        "Counted as it came: its row's mean and interval say little of other seeds."
    ]


def scores_of(runs: Mapping[int, Run]) -> dict[int, float]:
    """Return top-1 by seed, of the finished runs."""
    return {seed: run.top1 for seed, run in runs.items() if run.finished}


def _row(
    planned: PlannedPair,
    name: str,
    runs: Mapping[int, Run],
    scores: Mapping[str, dict[int, float]],
) -> dict:
    found = list(scores[name].values())
    done = [run for run in runs.values() if run.finished]
    return dict(
        config=planned.pair.row(name).config.name,
        published=planned.pair.row(name).published,
        planned=len(runs),
        scores=scores[name],
        mean=mean(found) if found else None,
        std=stdev(found) if len(found) > 1 else None,
        over={
            base: vars(difference)
            for base in (STUDENT, KD)
            if base != name
            and base in scores
            and (difference := paired(scores[name], scores[base]))
        },
        failed={seed: run.failure for seed, run in runs.items() if run.failure},
        curves={seed: r.result['curve'] for seed, r in runs.items() if r.finished},
        loss={seed: r.result['loss'] for seed, r in runs.items() if r.finished},
        minutes=round(sum(r.result['seconds'] for r in done) / 60, 1),
    )


def conclude(
    scores: Mapping[str, Mapping[int, float]],
    moves: float | None,
    planned: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
    """Say what a pair's numbers allow to conclude, and what not.

    Args:
        scores (Mapping): Top-1 by seed of every row.
        moves (float, optional): By how much the plain student's mean differs over its
            last five scores; None if it has fewer.
        planned (Mapping, optional): By row, the rows that a protocol compares it with.
            Defaults to None: those that are usual.
    """
    if not scores[STUDENT]:
        return ['No plain student is finished: nothing to compare with.']
    comparisons = []
    for base in _bases(scores, planned):
        found = {
            name: difference
            for name, by_seed in scores.items()
            if name != base
            and _is_compared(name, base, planned)
            and (difference := paired(by_seed, scores[base]))
        }
        comparisons.append(Comparison(_in_words(base), found))
    sentences = conclude_from(comparisons, 'the plain student', moves)
    if planned:
        count = sum(len(bases) for bases in planned.values())
        sentences.append(held_together(comparisons[1:], count))
    return sentences


def _planned(planned: PlannedPair) -> dict[str, list[str]]:
    """Return the comparisons of a protocol among the rows that are there."""
    found = {
        row.name: [base for base in row.compared_with if base in planned.rows]
        for row in planned.pair.rows
    }
    return {name: bases for name, bases in found.items() if bases}


def _bases(
    scores: Mapping, planned: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """Return what rows are compared with: the student, KD, then CAKD's rivals.

    Of a protocol's comparisons, what these name.
    """
    if planned:
        return list(dict.fromkeys([STUDENT, *(b for x in planned.values() for b in x)]))
    cakd = any(name.startswith('CAKD') for name in scores)
    first = [name for name in (STUDENT, KD) if name in scores]
    rivals = [n for n in scores if n in ('DKD', 'NKD') or n.startswith(CONTROL)]
    return first + (rivals if cakd else [])


def _is_compared(
    name: str, base: str, planned: Mapping[str, Sequence[str]] | None = None
) -> bool:
    """Whether a row is compared with a base: rivals with CAKD's rows alone."""
    if base == STUDENT:
        return True
    if planned:
        return base in planned.get(name, ())
    return name != STUDENT and (base == KD or name.startswith('CAKD'))


def _in_words(base: str) -> str:
    """Return what a sentence calls a row that others are compared with."""
    if base == STUDENT:
        return 'the plain student'
    if base.startswith(CONTROL):
        return f'the control, {base.removeprefix(CONTROL)}'
    return base
