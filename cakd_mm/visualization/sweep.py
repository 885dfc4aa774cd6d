"""sweep.png and sweep.md: several runs, grouped by what their configs say."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from statistics import mean, stdev
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmengine.runner import Runner

from ..utils.errors import describe
from ..utils.extract import EXTRACTED
from .history import LOG, configs_of, is_run, mean_curve, read_history

MOST_LEAVES = 8
MOST_COLUMNS = 8
DASH = '–'
MISSING = object()
Settings = dict | Hashable  # of a config or a part of it; MISSING too
Names = tuple[str, ...]
# What a run is made of. The other keys of a config are its own variables: a run does
# not read them, and `distiller`, say, is there again as `model.distiller`.
RUN_KEYS = {
    *signature(Runner.__init__).parameters,
    'activation_checkpointing',
    'compile',
    'efficient_conv_bn_eval',
    'model_wrapper_cfg',
    'sync_bn',
}
WITHOUT_INFLUENCE = {
    'default_hooks.checkpoint',
    'default_hooks.logger',
    'experiment_name',
    'launcher',
    'load_from',
    'log_level',
    'log_processor',
    'model.teacher_from',
    'randomness.seed',
    'resume',
    'test_cfg',
    'test_dataloader',
    'test_evaluator',
    'visualizer',
    'work_dir',
}
LATE = 0.6  # where the second panel begins, as a share of the longest run


@dataclass(frozen=True)
class SweptRun:
    """One run of a sweep.

    Args:
        work_dir (Path): Where it is.
        config (str): The stem of its config file.
        settings (dict): Its config without seed, places and what has no influence.
        seed (int, optional): None if the config has none.
        scores (dict): Top-1 in percent by epoch, or by iteration.
        length (int): How many epochs or iterations it is to have.
        unit (str): ``'epoch'`` or ``'iteration'``.
    """

    work_dir: Path
    config: str
    settings: dict
    seed: int | None
    scores: dict[int, float]
    length: int
    unit: str

    @property
    def end(self) -> int:
        """The last epoch, or iteration, that has a score."""
        return max(self.scores)

    @property
    def finished(self) -> bool:
        """Whether that is the last one the run is to have."""
        return self.end >= self.length

    @property
    def top1(self) -> float:
        """The last score."""
        return self.scores[self.end]


@dataclass(frozen=True)
class Group:
    """The runs whose configs agree in everything but the seed."""

    runs: list[SweptRun]

    @property
    def settings(self) -> dict:
        """What they agree in."""
        return self.runs[0].settings

    @property
    def config(self) -> str:
        """The stem of their config file."""
        return ', '.join(dict.fromkeys(run.config for run in self.runs))

    @property
    def finished(self) -> list[SweptRun]:
        """Those that count."""
        return [run for run in self.runs if run.finished]

    @property
    def unfinished(self) -> list[SweptRun]:
        """Those that are under way, or were stopped."""
        return [run for run in self.runs if not run.finished]

    @property
    def result(self) -> str:
        """Mean and standard deviation of the last top-1 of the finished runs."""
        scores = [run.top1 for run in self.finished]
        spread = f' ± {stdev(scores):.2f}' if len(scores) > 1 else ''
        return f'{mean(scores):.2f}{spread}'

    @property
    def mean_curve(self) -> list[tuple[int, float]]:
        """The mean of the finished runs, of the epochs that all of them scored."""
        return mean_curve([sorted(run.scores.items()) for run in self.finished])

    @property
    def repeated(self) -> list[int | None]:
        """The seeds that several finished runs have."""
        seeds = [run.seed for run in self.finished]
        return [seed for seed in dict.fromkeys(seeds) if seeds.count(seed) > 1]


@dataclass(frozen=True)
class Sweep:
    """Several runs.

    Args:
        groups (list[Group]): Those with a validation score.
        without_score (list[Path]): The work dirs of the others.
    """

    groups: list[Group]
    without_score: list[Path]

    @property
    def unit(self) -> str:
        """What the lengths of the runs count."""
        units = {run.unit for group in self.groups for run in group.runs}
        return ' or '.join(f'{unit}s' for unit in sorted(units))


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the work dirs of all runs in some folders, however deep, each once.

    Args:
        folders (Sequence[Path]): Work dirs, or folders that contain work dirs.

    Raises:
        FileNotFoundError: one of the folders holds no run.
    """
    found = {}
    for folder in folders:
        if folder.is_file():  # `runs/*` names the logs beside the runs, too
            continue
        work_dirs = {log.parents[2] for log in folder.rglob(LOG)}
        runs = [work_dir for work_dir in sorted(work_dirs) if is_run(work_dir)]
        if not runs:
            problem = f'Neither it nor a folder in it has {LOG} with logged lines.'
            remedy = 'Name a work dir of tools/train.py, or a folder of some.'
            raise FileNotFoundError(describe('WORK_DIR', str(folder), problem, remedy))
        for run in runs:
            found.setdefault(run.resolve(), run)
    return [*found.values()]


def read_sweep(work_dirs: Sequence[Path]) -> Sweep:
    """Read the logs and configs of runs, and group them.

    Raises:
        ValueError: no run has a validation score.
    """
    runs = [read_run(work_dir) for work_dir in work_dirs]
    scored = [run for run in runs if run.scores]
    if not scored:
        named = ', '.join(map(str, work_dirs))
        problem = 'Their logs have no validation score, so there is nothing to compare.'
        remedy = 'Wait for the first validation, or name other runs.'
        raise ValueError(describe('WORK_DIR', named, problem, remedy))
    return Sweep(group_runs(scored), [run.work_dir for run in runs if not run.scores])


def read_run(work_dir: Path) -> SweptRun:
    """Read a run's log and config."""
    history, cfg = read_history(work_dir)
    content = cfg.to_dict()
    by_epoch = 'max_epochs' in content['train_cfg']
    configs = configs_of(work_dir)
    return SweptRun(
        work_dir=work_dir,
        config=name_of(configs[0].stem) if configs else work_dir.resolve().name,
        settings=settings_of({k: v for k, v in content.items() if k in RUN_KEYS}),
        seed=(content.get('randomness') or {}).get('seed'),
        scores=history.scores,
        length=content['train_cfg']['max_epochs' if by_epoch else 'max_iters'],
        unit='epoch' if by_epoch else 'iteration',
    )


def name_of(stem: str) -> str:
    """Return a config's own name; the copy of ``student.py`` is ``student_run.py``."""
    own = stem.removesuffix('_run')
    return own if EXTRACTED.fullmatch(own) else stem


def group_runs(runs: Sequence[SweptRun]) -> list[Group]:
    """Return groups of runs that differ in the seed only, each ordered by seed."""
    groups: dict[Hashable, list[SweptRun]] = {}
    for run in runs:
        groups.setdefault(frozenset(leaves(run.settings).items()), []).append(run)
    return [
        Group(sorted(own, key=lambda run: (run.seed is None, run.seed or 0)))
        for own in groups.values()
    ]


def settings_of(value: object, path: Names = ()) -> Settings:
    """Return a part of a config without what has no influence on the results.

    Lists of dicts become dicts with ``'0'``, ``'1'``, ... as keys; other values become
    hashable, so that they can be compared.

    Args:
        value: The part.
        path (tuple[str]): The keys that lead to it. Defaults to ``()``, the whole.
    """
    if isinstance(value, list | tuple):
        items = [settings_of(item) for item in value]
        if any(isinstance(item, dict) for item in items):
            return {str(place): item for place, item in enumerate(items)}
        return tuple(items)
    if not isinstance(value, dict):
        return value if isinstance(value, Hashable) else str(value)
    return {
        name: settings_of(child, (*path, name))
        for name, child in value.items()
        if dotted((*path, name)) not in WITHOUT_INFLUENCE
    }


def dotted(path: Names) -> str:
    """Return a key as one writes it."""
    return '.'.join(map(str, path))


def leaves(settings: Settings, path: Names = ()) -> dict[Names, Hashable]:
    """Return the single values of settings by the keys that lead to them."""
    if not isinstance(settings, dict):
        return {} if settings is MISSING else {path: settings}
    found = {}
    for name, child in settings.items():
        found.update(leaves(child, (*path, name)))
    return found


def child_of(settings: Settings, name: str) -> Settings:
    """Return what settings have under a name, or MISSING."""
    return settings.get(name, MISSING) if isinstance(settings, dict) else MISSING


def short_form(settings: Settings) -> str:
    """Return settings in a few words: a value itself, a part by its types or names."""
    if settings is MISSING:
        return DASH
    if not isinstance(settings, dict):
        return str(settings)
    if 'type' in settings:
        return short_form(settings['type'])
    words = [
        short_form(child) if isinstance(child, dict) and 'type' in child else str(name)
        for name, child in settings.items()
    ]
    return ', '.join(words) or DASH


@dataclass(frozen=True)
class Column:
    """What a column of the table shows of each group's settings.

    Args:
        path (tuple[str]): The keys that lead to it.
        names (tuple[str]): Show which of these are there. Defaults to ``()``: show
            what is there.
    """

    path: Names
    names: Names = ()

    @property
    def heading(self) -> str:
        """The key as the table shows it."""
        return f'`{dotted(self.path)}{".*" if self.names else ""}`'

    def value(self, settings: Settings) -> str:
        """Return what a group's settings have there, in short."""
        found = settings
        for name in self.path:
            found = child_of(found, name)
        return self.text(found)

    def text(self, found: Settings) -> str:
        """Return in short what was found there."""
        if not self.names:
            return short_form(found)
        here = [name for name in self.names if child_of(found, name) is not MISSING]
        return ', '.join(map(str, here)) or DASH


def differing(values: Sequence[Settings], path: Names = ()) -> list[Column]:
    """Return the columns that tell settings apart.

    A part that differs in all its many values is one column, in its short form; so are
    many values that not all have. Where such a column says the same of some groups,
    further columns tell these apart.

    Args:
        values (Sequence): What each group has there.
        path (tuple[str]): The keys that lead there. Defaults to ``()``, the whole.
    """
    if all(value == values[0] for value in values):
        return []
    if not any(isinstance(value, dict) for value in values):
        return [Column(path)]
    if path and (has_values(values) or differs_entirely(values)):
        found = told_apart(Column(path), values, values)
        if found:
            return found
    found = partly_there(values, path) if path else []
    done = {name for column in found if column.path == path for name in column.names}
    for name in names_in(values):
        if name not in done:
            children = [child_of(value, name) for value in values]
            found += differing(children, (*path, name))
    return list(dict.fromkeys(found))


def partly_there(values: Sequence[Settings], path: Names) -> list[Column]:
    """Return a column of what some groups lack in a part, if that is many values."""
    if MISSING in values:
        return []
    names = names_in(values)
    names = [n for n in names if any(child_of(value, n) is MISSING for value in values)]
    parts = [{n: value[n] for n in names if n in value} for value in values]
    if not differs_entirely(parts):
        return []
    return told_apart(Column(path, tuple(names)), values, parts)


def names_in(values: Sequence[Settings]) -> list[str]:
    """Return the names of all children of parts of settings."""
    parts = [value for value in values if isinstance(value, dict)]
    return list(dict.fromkeys(name for part in parts for name in part))


def told_apart(
    column: Column, values: Sequence[Settings], parts: Sequence[Settings]
) -> list[Column]:
    """Return a column, and what tells those apart of which it says the same.

    Args:
        column (Column): It stands for the parts.
        values (Sequence): What each group has where the column is.
        parts (Sequence): The same, without what other columns tell.

    Returns:
        list[Column]: Empty if the column says the same of all.
    """
    texts = [column.text(value) for value in values]
    if len(set(texts)) == 1:
        return []
    found = [column]
    for text in dict.fromkeys(texts):
        alike = [part for part, own in zip(parts, texts, strict=True) if own == text]
        found += differing(alike, column.path)
    return found


def has_values(values: Sequence[Settings]) -> bool:
    """Whether a group has a single value where another has a part."""
    return any(not isinstance(v, dict) and v is not MISSING for v in values)


def differs_entirely(values: Sequence[Settings]) -> bool:
    """Whether parts of settings have many single values and none in common."""
    found = [leaves(value) for value in values]
    keys = {key for own in found for key in own}
    differ = (len({own.get(key, MISSING) for own in found}) > 1 for key in keys)
    return len(keys) > MOST_LEAVES and all(differ)


def sweep_table(sweep: Sweep) -> str:
    """Return the table of a sweep, in Markdown, and what has to be said about it.

    A few keys that differ are columns; of more than :data:`MOST_COLUMNS` each is a line
    below the table, because nobody can read such a wide one.
    """
    columns = differing([group.settings for group in sweep.groups])
    listed = columns if len(columns) > MOST_COLUMNS else []
    shown = [] if listed else columns
    head = ['config', 'seeds', sweep.unit, 'last top-1 (%)']
    head += [column.heading for column in shown]
    rows = [row for group in sweep.groups for row in table_rows(group, shown)]
    lines = [head, ['---'] * len(head), *rows]
    text = ['| ' + ' | '.join(map(cell, line)) + ' |' for line in lines]
    text += ['', *notes(sweep)]
    if listed:
        text += ['', 'What differs:', '', *(spelt_out(x, sweep.groups) for x in listed)]
    return '\n'.join(text) + '\n'


def spelt_out(column: Column, groups: Sequence[Group]) -> str:
    """Return a line with each value of a key, and the configs that have it."""
    configs: dict[str, list[str]] = {}
    for group in groups:
        configs.setdefault(column.value(group.settings), []).append(group.config)
    configs.pop(DASH, None)  # the others do not have the key
    parts = (
        f'{value} ({", ".join(dict.fromkeys(own))})' for value, own in configs.items()
    )
    return f'- {column.heading}: {"; ".join(parts)}'


def cell(text: str) -> str:
    """Return a text as a cell of a table."""
    return text.replace('|', '\\|').replace('\n', ' ')


def table_rows(group: Group, columns: Sequence[Column]) -> list[list[str]]:
    """Return the row of a group's finished runs, and one of each unfinished run."""
    values = [column.value(group.settings) for column in columns]
    rows = []
    if group.finished:
        seeds = ', '.join(seed_name(run.seed) for run in group.finished)
        length = str(group.finished[0].length)
        rows.append([group.config, seeds, length, group.result, *values])
    for run in group.unfinished:
        part = f'{run.end} of {run.length}, unfinished'
        score = f'{run.top1:.2f}'
        rows.append([group.config, seed_name(run.seed), part, score, *values])
    return rows


def seed_name(seed: int | None) -> str:
    """Return a seed as the table shows it."""
    return DASH if seed is None else str(seed)


def notes(sweep: Sweep) -> list[str]:
    """Return what a reader of the table has to know."""
    lines = ['Mean ± standard deviation over the seeds, of the last score of a run.']
    if any(group.unfinished for group in sweep.groups):
        lines.append('An unfinished run has a row of its own, and is in no mean.')
    for own in sweep.groups:
        for seed in own.repeated:
            same = [str(run.work_dir) for run in own.finished if run.seed == seed]
            text = f'These runs have the same config and seed: {", ".join(same)}.'
            lines.append(f'{text} Each of them counts in the mean.')
    if sweep.without_score:
        names = ', '.join(map(str, sweep.without_score))
        lines.append(f'Left out, because their logs have no validation score: {names}.')
    return [f'- {line}' for line in lines]


def labels_of(groups: Sequence[Group]) -> list[str]:
    """Return the config of each group; of a config with several, what differs too."""
    labels = []
    for own in groups:
        namesakes = [x.settings for x in groups if x.config == own.config]
        words = [own.config]
        for column in differing(namesakes):
            words.append(f'{column.path[-1]}={column.value(own.settings)}')
        labels.append(', '.join(words))
    return labels


def legend_entry(label: str, group: Group) -> str:
    """Return a group's entry of the legend."""
    number = len(group.finished)
    if not number:
        return fill(f'{label}: unfinished', 60)
    seeds = 'one seed' if number == 1 else f'{number} seeds'
    return f'{fill(label, 60)}\n{group.result} % ({seeds})'


def draw_sweep(sweep: Sweep) -> Figure:
    """Draw top-1 over the epochs, all of them and the last ones, with a legend."""
    labels = labels_of(sweep.groups)
    height = max(4.5, 1 + 0.4 * len(labels))
    figure = Figure(figsize=(15, height), layout='constrained')
    whole, late = figure.subplots(1, 2)
    for axis in (whole, late):
        for number, (label, own) in enumerate(zip(labels, sweep.groups, strict=True)):
            draw_group(axis, own, legend_entry(label, own), number)
        axis.set(xlabel=sweep.unit, ylabel='top-1 (%)')
        axis.grid(alpha=0.3)
    if any(own.unfinished for own in sweep.groups):
        whole.plot([], [], 'x', color='0.45', label='end of an unfinished run')
    show_late(late, sweep)
    handles, names = whole.get_legend_handles_labels()
    figure.legend(handles, names, loc='outside right center', fontsize=8)
    return figure


def draw_group(axis: Axes, group: Group, entry: str, number: int) -> None:
    """Draw the runs of a group thin, and the mean of the finished ones thick."""
    style = dict(color=f'C{number % 10}', linestyle=('-', '--', ':')[number // 10 % 3])
    curve = group.mean_curve
    if curve:
        marker = '.' if len(curve) < 60 else ''
        axis.plot(*zip(*curve, strict=True), linewidth=2.2, marker=marker, **style)
    for run in group.runs:
        x, y = zip(*sorted(run.scores.items()), strict=True)
        axis.plot(x, y, linewidth=0.8, alpha=0.6, **style)
        if not run.finished:
            axis.plot(x[-1], y[-1], 'x', color=style['color'])
    axis.plot([], [], linewidth=2.2, label=entry, **style)


def show_late(axis: Axes, sweep: Sweep) -> None:
    """Show the last epochs only, where the groups are close to each other."""
    runs = [run for group in sweep.groups for run in group.runs]
    end = max(run.end for run in runs)
    scores = [y for run in runs for x, y in run.scores.items() if x >= LATE * end]
    margin = 0.05 * (max(scores) - min(scores)) or 0.5
    axis.set_xlim(LATE * end, end + 0.02 * end)
    axis.set_ylim(min(scores) - margin, max(scores) + margin)
    axis.set_title('the last part', fontsize=10)
