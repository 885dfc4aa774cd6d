"""sweep.png and sweep.md: several runs, grouped by what their configs say."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from inspect import signature
from pathlib import Path
from statistics import mean, stdev
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.runner import Runner

from ..utils.errors import describe
from ..utils.extract import EXTRACTED
from ..utils.hub import MIM
from .history import LOG, History, configs_of, is_run, mean_curve, read_history

MOST_LEAVES = 8
MOST_COLUMNS = 8
LONGEST_WORDS = 80  # in letters, of what sets a label apart
DASH = '–'
Keys = tuple[str, ...]  # These lead to a value or a part of a config.
Settings = dict[Keys, Hashable]  # The values of a config, or of a part of it.
# The keys that a run reads. The others are variables of the config, and what they hold
# is read under another key: `distiller`, for instance, as `model.distiller`.
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
    'default_hooks.trackers',
    # cuDNN may choose other kernels, whose results differ by rounding alone.
    'env_cfg',
    'experiment_name',
    'launcher',
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
# Scopes whose classes have the same names without them, and with a module's path.
DEFAULT_SCOPES = ('mmpretrain', 'cakd_mm')
LATE = 0.6  # where the second panel begins, as a share of the longest run


@dataclass(frozen=True)
class SweptRun:
    """One run of a sweep.

    Attributes:
        work_dir: Where it is.
        config: The stem of its config file.
        settings: Its config without seed, places and what has no influence.
        seed: None if the config has none.
        length: How many epochs or iterations it is to have.
        unit: ``'epochs'`` or ``'iterations'``.
        history: Its log.
        cfg: Its config, with all that ``settings`` leaves out.
    """

    work_dir: Path
    config: str
    settings: Settings
    seed: int | None
    length: int
    unit: str
    history: History
    cfg: Config

    @cached_property
    def scores(self) -> dict[int, float]:
        """Top-1 in percent by epoch, or by iteration."""
        return self.history.scores

    @property
    def end(self) -> int:
        """The last epoch, or iteration, that has a score; 0 if none has."""
        return max(self.scores, default=0)

    @property
    def finished(self) -> bool:
        """Whether that is the last one the run is to have."""
        return self.end >= self.length

    @property
    def top1(self) -> float:
        """The last score."""
        return self.scores[self.end]

    @property
    def shown_seed(self) -> str:
        """The seed as the table shows it."""
        return DASH if self.seed is None else str(self.seed)


class Group:
    """The runs whose configs agree in everything but the seed, ordered by seed."""

    def __init__(self, runs: list[SweptRun]) -> None:
        self.runs = sorted(runs, key=lambda run: (run.seed is None, run.seed or 0))
        self.settings = runs[0].settings
        self.config = ', '.join(dict.fromkeys(run.config for run in self.runs))
        self.finished = [run for run in self.runs if run.finished]
        self.unfinished = [run for run in self.runs if not run.finished]

    @property
    def result(self) -> str:
        """Mean and standard deviation of the last top-1 of the finished runs."""
        scores = [run.top1 for run in self.finished]
        spread = f' ± {stdev(scores):.2f}' if len(scores) > 1 else ''
        return f'{mean(scores):.2f}{spread}'

    @property
    def mean_curve(self) -> list[tuple[int, float]]:
        """The mean of the finished runs at the epochs that all of them scored."""
        return mean_curve([sorted(run.scores.items()) for run in self.finished])


@dataclass(frozen=True)
class Sweep:
    """The groups of runs with a validation score, and the work dirs of the others."""

    groups: list[Group]
    without_score: list[Path]

    @property
    def runs(self) -> list[SweptRun]:
        """The runs of all groups."""
        return [run for group in self.groups for run in group.runs]

    @property
    def unit(self) -> str:
        """What the lengths of the runs count."""
        return ' or '.join(sorted({run.unit for run in self.runs}))


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the work dirs of all runs in some folders, however deep, each once.

    Raises:
        FileNotFoundError: one of the folders holds no run.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        if folder.is_file():
            continue  # The pattern `runs/*` also names logs beside the runs.
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
    without = [run.work_dir for run in runs if not run.scores]
    return Sweep(group_runs(scored), without)


def group_runs(runs: Sequence[SweptRun]) -> list[Group]:
    """Put runs together whose settings are equal, in the order of the runs."""
    groups: dict[Hashable, list[SweptRun]] = {}
    for run in runs:
        groups.setdefault(frozenset(run.settings.items()), []).append(run)
    return [Group(members) for members in groups.values()]


def read_run(work_dir: Path) -> SweptRun:
    """Read a run's log and config."""
    history, cfg = read_history(work_dir, imports=False)
    content = cfg.to_dict()
    by_epoch = 'max_epochs' in content['train_cfg']
    configs = configs_of(work_dir)
    return SweptRun(
        work_dir=work_dir,
        config=name_of(configs[0].stem) if configs else work_dir.resolve().name,
        settings=influencing(cfg),
        seed=(content.get('randomness') or {}).get('seed'),
        length=content['train_cfg']['max_epochs' if by_epoch else 'max_iters'],
        unit='epochs' if by_epoch else 'iterations',
        history=history,
        cfg=cfg,
    )


def name_of(stem: str) -> str:
    """Return a config's own name; the copy of ``student.py`` is ``student_run.py``."""
    own = stem.removesuffix('_run')
    return own if EXTRACTED.fullmatch(own) else stem


@cache
def default_runtime() -> Settings:
    """Return the runtime that the shipped configs begin with."""
    path = MIM / 'configs' / '_base_' / 'default_runtime.py'
    return settings_of(Config.fromfile(path, import_custom_modules=False).to_dict())


def influencing(cfg: Config) -> Settings:
    """Return what of a run's config may change its results, but for the seed.

    What equals the shipped runtime is left out: a run from before a hook was added
    there does not differ in it.
    """
    content = {key: value for key, value in cfg.to_dict().items() if key in RUN_KEYS}
    if content.get('resume'):  # It is a checkpoint of the run itself.
        content.pop('load_from', None)
    shipped, own = default_runtime().items(), settings_of(content)
    return {key: value for key, value in own.items() if (key, value) not in shipped}


def settings_of(value: object, path: Keys = ()) -> Settings:
    """Return the values of a config by the keys that lead to them.

    What has no influence on the results is left out. A list with a dict in it has
    ``'0'``, ``'1'``, ... as keys; another list is a value, as a tuple.
    """
    if dotted(path) in WITHOUT_INFLUENCE:
        return {}
    if isinstance(value, list | tuple):
        items = [settings_of(item) for item in value]
        if all(item.keys() == {()} for item in items):
            return {path: tuple(item[()] for item in items)}
        value = {str(place): item for place, item in enumerate(value)}
    if isinstance(value, str) and path[-1:] == ('type',):
        value = class_name(value)
    if not isinstance(value, dict):
        return {path: value if isinstance(value, Hashable) else str(value)}
    settings = {}
    for name, child in value.items():
        settings.update(settings_of(child, (*path, name)))
    return settings


def class_name(name: str) -> str:
    """Return the last part of a ``type`` that is a class of ours or of mmpretrain's.

    Others keep their scope, because two scopes may have a class of the same name.
    """
    scope, _, path = name.partition('.')
    return path.rpartition('.')[2] if path and scope in DEFAULT_SCOPES else name


def dotted(path: Keys) -> str:
    """Return a key as one writes it."""
    return '.'.join(map(str, path))


def part_of(settings: Settings, path: Keys) -> Settings:
    """Return the settings below a path; of a single value there the key is ``()``."""
    depth = len(path)
    return {key[depth:]: v for key, v in settings.items() if key[:depth] == path}


def short_form(part: Settings) -> str:
    """Return a part in a few words: a value itself, else its type, types or names."""
    for key in ((), ('type',)):
        if key in part:
            return str(part[key])
    names = dict.fromkeys(name for name, *_ in part)
    return ', '.join(str(part.get((name, 'type'), name)) for name in names) or DASH


def differing(parts: Sequence[Settings], path: Keys = ()) -> list[Keys]:
    """Return the keys that tell settings apart.

    Where a part differs in all its many values, or is a single value in some settings,
    its own key is enough, because its short form says what it is. Settings with the
    same short form are told apart by further keys.

    Args:
        parts: What each group has below a path.
        path: That path. Defaults to ``()``, the whole.
    """
    if all(part == parts[0] for part in parts):
        return []
    if all(part.keys() <= {()} for part in parts):
        return [path]
    found: list[Keys] = []
    texts = [short_form(part) for part in parts]
    keys = {key for part in parts for key in part}
    common = set.intersection(*(set(part.items()) for part in parts))
    differs_entirely = len(keys) > MOST_LEAVES and not common
    if path and len(set(texts)) > 1 and (() in keys or differs_entirely):
        found = [path]
        for text in dict.fromkeys(texts):
            alike = [part for part in parts if short_form(part) == text]
            found += differing(alike, path)
    else:
        for name in dict.fromkeys(key[0] for part in parts for key in part if key):
            children = [part_of(part, (name,)) for part in parts]
            found += differing(children, (*path, name))
    return list(dict.fromkeys(found))


def sweep_table(sweep: Sweep) -> str:
    """Return the table of a sweep, in Markdown, and what has to be said about it.

    The keys that differ are columns. If they are more than :data:`MOST_COLUMNS`, each
    is a line below the table, because nobody can read such a wide table.
    """
    paths = differing([group.settings for group in sweep.groups])
    listed = paths if len(paths) > MOST_COLUMNS else []
    shown = [] if listed else paths
    head = ['config', 'seeds', sweep.unit, 'last top-1 (%)']
    head += [f'`{dotted(path)}`' for path in shown]
    rows = [row for group in sweep.groups for row in table_rows(group, shown)]
    text = []
    for line in (head, ['---'] * len(head), *rows):
        cells = (cell.replace('|', '\\|').replace('\n', ' ') for cell in line)
        text.append(f'| {" | ".join(cells)} |')
    text += ['', *notes(sweep)]
    if listed:
        text += ['', 'What differs:', '', *(spelt_out(x, sweep.groups) for x in listed)]
    return '\n'.join(text) + '\n'


def shown_at(path: Keys, group: Group) -> str:
    """Return what a group has at a key, in its short form."""
    return short_form(part_of(group.settings, path))


def spelt_out(path: Keys, groups: Sequence[Group]) -> str:
    """Return a line with each value of a key, and the configs that have it."""
    configs: dict[str, list[str]] = {}
    for group in groups:
        configs.setdefault(shown_at(path, group), []).append(group.config)
    configs.pop(DASH, None)  # These configs do not have the key.
    parts = (f'{x} ({", ".join(dict.fromkeys(own))})' for x, own in configs.items())
    return f'- `{dotted(path)}`: {"; ".join(parts)}'


def table_rows(group: Group, paths: Sequence[Keys]) -> list[list[str]]:
    """Return the row of a group's finished runs, and one of each unfinished run."""
    values = [shown_at(path, group) for path in paths]
    rows = []
    if group.finished:
        length = str(group.finished[0].length)
        seeds = ', '.join(run.shown_seed for run in group.finished)
        rows.append([group.config, seeds, length, group.result, *values])
    for run in group.unfinished:
        part = f'{run.end} of {run.length}, unfinished'
        rows.append([group.config, run.shown_seed, part, f'{run.top1:.2f}', *values])
    return rows


def notes(sweep: Sweep) -> list[str]:
    """Return what a reader of the table has to know."""
    lines = ['Mean ± standard deviation over the seeds, of the last score of a run.']
    if not all(run.finished for run in sweep.runs):
        lines.append('An unfinished run has a row of its own, and is in no mean.')
    for group in sweep.groups:
        for seed, count in Counter(run.seed for run in group.finished).items():
            if count > 1:
                same = [str(run.work_dir) for run in group.finished if run.seed == seed]
                text = f'These runs have the same config and seed: {", ".join(same)}.'
                lines.append(f'{text} Each of them counts in the mean.')
    if sweep.without_score:
        names = ', '.join(map(str, sweep.without_score))
        lines.append(f'Left out, because their logs have no validation score: {names}.')
    return [f'- {line}' for line in lines]


def label_of(group: Group, groups: Sequence[Group]) -> str:
    """Return a group's config, and what sets it apart from others of that name.

    Where that is much, its place is told in the place of it.
    """
    paths = differing([x.settings for x in groups if x.config == group.config])
    words = ', '.join(f'{path[-1]}={shown_at(path, group)}' for path in paths)
    if len(words) > LONGEST_WORDS:
        return f'{group.config} in {group.runs[0].work_dir}'
    return f'{group.config}, {words}' if words else group.config


def legend_entry(group: Group, groups: Sequence[Group]) -> str:
    """Return a group's label and its score."""
    label = label_of(group, groups)
    number = len(group.finished)
    if not number:
        return fill(f'{label}: unfinished', 60)
    seeds = 'one seed' if number == 1 else f'{number} seeds'
    return f'{fill(label, 60)}\n{group.result} % ({seeds})'


def draw_sweep(sweep: Sweep) -> Figure:
    """Draw top-1 over the epochs, all of them and the last ones, with a legend."""
    entries = [legend_entry(group, sweep.groups) for group in sweep.groups]
    height = max(4.5, 1 + 0.4 * len(entries))
    figure = Figure(figsize=(15, height), layout='constrained')
    whole, late = figure.subplots(1, 2)
    for axis in (whole, late):
        for number, (entry, own) in enumerate(zip(entries, sweep.groups, strict=True)):
            draw_group(axis, own, entry, number)
        axis.set(xlabel=sweep.unit, ylabel='top-1 (%)')
        axis.grid(alpha=0.3)
    if not all(run.finished for run in sweep.runs):
        whole.plot([], [], 'x', color='0.45', label='end of an unfinished run')
    show_late(late, sweep)
    handles, names = whole.get_legend_handles_labels()
    figure.legend(handles, names, loc='outside right center', fontsize=8)
    return figure


def draw_group(axis: Axes, group: Group, entry: str, number: int) -> None:
    """Draw the runs of a group thin, and the mean of the finished ones thick."""
    colour, style = f'C{number % 10}', ('-', '--', ':')[number // 10 % 3]
    draw = partial(axis.plot, color=colour, linestyle=style)
    curve = group.mean_curve
    if curve:
        marker = '.' if len(curve) < 60 else ''
        draw(*zip(*curve, strict=True), linewidth=2.2, marker=marker)
    for run in group.runs:
        x, y = zip(*sorted(run.scores.items()), strict=True)
        draw(x, y, linewidth=0.8, alpha=0.6)
        if not run.finished:
            axis.plot(x[-1], y[-1], 'x', color=colour)
    draw([], [], linewidth=2.2, label=entry)


def show_late(axis: Axes, sweep: Sweep) -> None:
    """Show the last epochs only, where the groups are close to each other."""
    end = max(run.end for run in sweep.runs)
    scores = [y for run in sweep.runs for x, y in run.scores.items() if x >= LATE * end]
    margin = 0.05 * (max(scores) - min(scores)) or 0.5
    axis.set_xlim(LATE * end, end + 0.02 * end)
    axis.set_ylim(min(scores) - margin, max(scores) + margin)
    axis.set_title('the last part', fontsize=10)
