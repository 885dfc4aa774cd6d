"""What finished runs say, for the page and for machines."""

from collections.abc import Mapping, Sequence
from statistics import mean, median, stdev

from .paired_statistics import Difference, level, paired
from .plan import PlannedPair, in_turn
from .runs import Run, made_with
from .tables import CONTROL, KD, STUDENT, TEACHER

NEAR = 1.0  # Seeds and versions may move a number so many points from the paper's.
LEVEL = 1.0  # A student that moves less in its last epochs, in points, is level.
COLLAPSED = 0.5  # A run below this share of the plain student's mean has not learned.


def summarise(planned: Sequence[PlannedPair], speed: str) -> dict:
    """Return all that the page needs; only finished runs count.

    Args:
        planned (Sequence[PlannedPair]): The table.
        speed (str): How it was run, see :func:`budget.speed_options`.
    """
    runs = in_turn(planned)
    done = [run for run in runs if run.finished]
    return dict(
        speed=speed,
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
            *conclude(scores, moves),
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
    scores: Mapping[str, Mapping[int, float]], moves: float | None
) -> list[str]:
    """Say what a pair's numbers allow to conclude, and what not.

    Args:
        scores (Mapping): Top-1 by seed of every row.
        moves (float, optional): By how much the plain student's mean differs over its
            last five scores; None if it has fewer.
    """
    if not scores[STUDENT]:
        return ['No plain student is finished: nothing to compare with.']
    if moves is None:
        return [
            'Fewer than five epochs are scored: whether the plain student has levelled '
            'off cannot be told, and no ranking is stated.'
        ]
    if moves >= LEVEL:
        return [
            'The plain student had not levelled off: its mean differs by '
            f'{moves:.2f} points over its last five scores. Differences here say '
            'who learns faster, and no ranking is stated.'
        ]
    sentences = [
        'Within this schedule the plain student had levelled off: its mean differs by '
        f'{moves:.2f} points over its last five scores. A longer schedule may still '
        'change the picture.'
    ]
    compared: list[Difference] = []
    for base in _bases(scores):
        found = {
            name: difference
            for name, by_seed in scores.items()
            if name != base
            and _is_compared(name, base)
            and (difference := paired(by_seed, scores[base]))
        }
        if found:
            compared += found.values()
            sentences.append(_sentence(base, found))
    widths = [x.half for x in compared if x.half is not None]
    if not widths:
        sentences.append(
            'With one seed there is no interval: no difference here is more than an '
            'observation.'
        )
        return sentences
    sentences.append(
        'Intervals are 95 % t intervals of paired differences; their median half width '
        f'is {median(widths):.2f} points, and much less than that cannot be told here. '
        f'Each of the {len(widths)} comparisons has a chance of 5 % to be called '
        f'resolved by seeds alone, which makes {0.05 * len(widths):.1f} of them.'
    )
    return sentences


def _bases(scores: Mapping) -> list[str]:
    """Return what rows are compared with: the student, KD, then CAKD's rivals."""
    cakd = any(name.startswith('CAKD') for name in scores)
    first = [name for name in (STUDENT, KD) if name in scores]
    rivals = [n for n in scores if n in ('DKD', 'NKD') or n.startswith(CONTROL)]
    return first + (rivals if cakd else [])


def _is_compared(name: str, base: str) -> bool:
    """Whether a row is compared with a base: rivals with CAKD's rows alone."""
    if base == STUDENT:
        return True
    return name != STUDENT and (base == KD or name.startswith('CAKD'))


def _sentence(base: str, found: Mapping[str, Difference]) -> str:
    """Say which rows lie above and below ``base``."""
    kinds = ('above', 'below', 'not told apart from it')
    groups: dict[str, list[str]] = {kind: [] for kind in kinds}
    for name, x in found.items():
        if not x.resolved:
            groups['not told apart from it'].append(f'{name} ({x})')
        else:
            groups['above' if x.mean > 0 else 'below'].append(f'{name} ({x})')
    parts = [f'{how}: {", ".join(rows)}' for how, rows in groups.items() if rows]
    who = 'the plain student' if base == STUDENT else base.removeprefix(CONTROL)
    kind = 'the control, ' if base.startswith(CONTROL) else ''
    return f'Against {kind}{who}: {"; ".join(parts)}.'
