"""From a table to the runs that it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cakd_mm.utils.checkpoint import hash_of
from cakd_mm.utils.errors import describe
from cakd_mm.utils.tools import as_typed_here
from cakd_mm.utils.training_images import MULTI_VIEW, name_of, training_set

from .budget import held_out_options, length_options, speed_options
from .runs import Run, read_config
from .tables import STUDENT, TEACHER, Pair, Row, method_of

TRAIN = 'tools/train.py '


@dataclass(frozen=True)
class PlannedPair:
    """A pair with its runs.

    Args:
        pair (Pair): What is compared.
        teacher (Run): Made first, or scored if it was there.
        rows (dict[str, dict[int, Run]]): Runs by row and seed.
        recipe (int): Epochs of the recipe as published.
        epochs (int): Epochs that are run.
    """

    pair: Pair
    teacher: Run
    rows: dict[str, dict[int, Run]]
    recipe: int
    epochs: int


def plan(
    pairs: Sequence[Pair],
    seeds: int,
    work_dir: Path,
    speed: str,
    epochs: int | None = None,
    first_seed: int = 0,
    held_out: bool = False,
) -> list[PlannedPair]:
    """Return every pair's runs; tables that share a run share its folder.

    Args:
        pairs (Sequence[Pair]): See :func:`tables.select`.
        seeds (int): How many, from ``first_seed`` on.
        work_dir (Path): Where runs go, in a folder of their speed and epochs.
        speed (str): See :func:`budget.speed_options`.
        epochs (int, optional): Of every run. Defaults to the recipe's.
        first_seed (int): The least seed of the students. Defaults to 0.
        held_out (bool): Whether students are scored on held-out training images, see
            :data:`budget.HELD_OUT`. Defaults to False, the test set.

    Raises:
        ValueError: a folder holds other settings, or a student of another teacher;
            seeds or epochs below one.
        FileNotFoundError: a teacher is neither there nor made by training.
    """
    if seeds < 1:
        problem = 'It counts seeds.'
        raise ValueError(describe('--seeds', seeds, problem, 'Write 3, say.'))
    runs: dict[Path, Run] = {}

    def run_of(row: Row, pair: Pair, seed: int, teacher: Run | None) -> Run:
        cfg = read_config(row.config)
        length = cfg.train_cfg.max_epochs if epochs is None else epochs
        # The teacher is the same one, however its students are scored.
        is_held_out = held_out and row.name != TEACHER
        kind = '_held-out' if is_held_out else ''
        name = f'{row.config.stem}_{length}e{kind}_seed{seed}'
        folder = work_dir / speed / name
        if folder not in runs:
            options = [f'randomness.seed={seed}']
            options += length_options(cfg, length, pair.data)
            fits = MULTI_VIEW not in map(name_of, training_set(cfg)[1] or ())
            options += speed_options(speed, pair.data, teacher is not None, fits)
            options += held_out_options(pair.data) if is_held_out else []
            runs[folder] = Run(name, row.config, folder, options, teacher)
            runs[folder].check()
        return runs[folder]

    planned = []
    for pair in pairs:
        row = pair.row(TEACHER)
        _require_one_teacher(pair)
        given = _given_teacher(pair)
        if given is None:
            teacher = run_of(row, pair, 0, None)
        else:
            name = f'{row.config.stem}_{hash_of(given)[:8]}'
            folder = work_dir / 'given' / name
            runs.setdefault(folder, Run(name, row.config, folder, checkpoint=given))
            teacher = runs[folder]
        rows = {
            row.name: {
                seed: run_of(row, pair, seed, None if row.name == STUDENT else teacher)
                for seed in range(first_seed, first_seed + seeds)
            }
            for row in pair.rows
            if row.name != TEACHER
        }
        cfg = read_config(pair.row(STUDENT).config)
        recipe = cfg.train_cfg.max_epochs
        length = recipe if epochs is None else epochs
        planned.append(PlannedPair(pair, teacher, rows, recipe, length))
    return planned


def in_turn(planned: Sequence[PlannedPair]) -> list[Run]:
    """Return all runs, each once: teachers, then all rows of a seed, then the next.

    A table that is interrupted then compares on fewer seeds, not on fewer rows.
    """
    turn = [pair.teacher for pair in planned]
    seeds = {s for pair in planned for runs in pair.rows.values() for s in runs}
    for seed in sorted(seeds):
        turn += [runs[seed] for pair in planned for runs in pair.rows.values()]
    return list({run.work_dir: run for run in turn}.values())


def _require_one_teacher(pair: Pair) -> None:
    """Refuse configs with several teachers, because a table has one for all rows.

    Raises:
        ValueError: naming the row.
    """
    for row in pair.rows:
        teachers = read_config(row.config).model.get('teacher')
        if isinstance(teachers, (list, tuple)):
            problem = f'{row.config} has {len(teachers)} teachers, and a table trains '
            problem += 'and scores one for all rows of a pair.'
            remedy = 'Take the row out, and train it with tools/train.py.'
            names = [entry.get('name') for entry in teachers]
            raise ValueError(describe('model.teacher', names, problem, remedy))


def _given_teacher(pair: Pair) -> Path | None:
    """Return the teacher's checkpoint that the pair's configs name, if it is there.

    Raises:
        FileNotFoundError: it is not there, and no training makes it.
    """
    config = method_of(pair).config
    model = read_config(config).model
    path = Path(model.teacher_ckpt)
    if path.is_file():
        return path
    if TRAIN in model.teacher_from:
        return None
    raise FileNotFoundError(
        describe(
            'model.teacher_ckpt',
            model.teacher_ckpt,
            'This pair has a teacher from elsewhere, which is not there.',
            f'Run `{as_typed_here(model.teacher_from)}`.',
        )
    )
