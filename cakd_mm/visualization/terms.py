"""terms.png: the terms of every loss, and of the run, over the epochs."""

import math
from dataclasses import dataclass, field

from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmengine.config import Config

from ..models.distillers.distiller_config import short_name
from ..models.losses.cakd_feature_loss import setting
from ..models.term_axis import TermAxis
from ..utils.extract import student_model
from ..utils.type_names import class_name
from .history import History
from .observe import class_of, is_cakd_feature
from .term_labels import colour_of, describe_term

LOG_SPAN = 30
CHANCE = '0.45'
Curves = dict[str, tuple[list[float], list[float]]]  # x and y by label


@dataclass
class Panel:
    """Curves that share an axis."""

    ylabel: str
    curves: Curves
    levels: dict[str, float] = field(default_factory=dict)
    log: bool = False
    note: str = ''

    @property
    def entries(self) -> int:
        """The number of lines of its legend."""
        return len(self.curves) + len(self.levels) + bool(self.note)


def positive(curves: Curves) -> list[float]:
    """Return the values that a logarithmic axis can show."""
    return [v for _, y in curves.values() for v in y if 0 < v < math.inf]


def needs_log(curves: Curves) -> bool:
    """Whether the positive values span so much that they need a logarithmic axis."""
    values = positive(curves)
    return bool(values) and max(values) > LOG_SPAN * min(values)


def value_panel(axis: str, curves: Curves) -> Panel | None:
    """Return a panel of terms, which only names those that are 0 throughout."""
    drawn = {label: curve for label, curve in curves.items() if any(curve[1])}
    if not drawn:
        return None
    zero = [label.partition(':')[0] for label in curves if label not in drawn]
    note = f'not drawn, 0 throughout: {", ".join(zero)}' if zero else ''
    return Panel(axis, drawn, log=needs_log(drawn), note=note)


def loss_panels(
    history: History, short: str, loss: dict, classes: int | None, target: float | None
) -> list[Panel]:
    """Return the panels of a loss that have something to show.

    Args:
        history: The log.
        short: The loss's name in the log.
        loss: Its config.
        classes: Number of classes.
        target: The ratio that a balancer aims at for this loss.
    """
    terms = history.terms().get(short, [])
    by_axis: dict[TermAxis, Curves] = {axis: {} for axis in TermAxis}
    for term in terms:
        axis, label = describe_term(term)
        by_axis[axis][label] = history.curve(f'{short}/{term}')
    shares, factors = by_axis.pop(TermAxis.SHARE), by_axis.pop(TermAxis.FACTOR)
    panels = [value_panel(axis.value, curves) for axis, curves in by_axis.items()]
    if shares:
        levels = share_levels(terms, loss, classes)
        panels.append(Panel(TermAxis.SHARE.value, shares, levels))
    if factors:
        levels = {'1: equal': 1.0}
        if target is not None and target != 1:
            levels[f'{target:g}: ratio aimed at'] = target
        panels.append(Panel(TermAxis.FACTOR.value, factors, levels, log=True))
    return [panel for panel in panels if panel is not None]


def share_levels(terms: list[str], loss: dict, classes: int | None) -> dict[str, float]:
    """Return the values that shares have by chance, or are to have."""
    if not is_cakd_feature(loss):
        mass = [term for term in ('strong_mass', 'target_mass') if term in terms]
        if not classes or not mass or loss.get('multi_label'):
            return {}
        return {f'1/{classes}: {mass[0]} of equal classes': 1 / classes}
    share, scorer = setting(loss, 'strong_share'), setting(loss, 'scorer')
    levels = {f'{share:g}: strong_share, the strong_mass of equal channels': share}
    # fill_widths gives the scorer the share of the loss if the config says nothing.
    aim = scorer.get('share', share)
    if 'gate_mean' in terms and aim != share:
        levels[f'{aim:g}: gate_mean aimed at'] = aim
    if classes and 'kept_strong' in terms:
        levels[f'1/{classes}: kept_* of guesses'] = 1 / classes
    return levels


def run_panels(history: History) -> list[Panel]:
    """Return the panels of the run as a whole: losses, warm-up and top-1."""
    sides = ('student.', 'distill.')
    parts = [key for key in history.keys if key.startswith(sides) and 'loss' in key]
    parts += ['loss'] if 'loss' in history.keys else []
    curves = {part_name(key): history.curve(key) for key in parts}
    panels = []
    if curves:
        panels.append(
            Panel('value in the training loss', curves, log=needs_log(curves))
        )
    x, y = history.validation()
    if x:
        label = f'top-1 of the student: {y[-1]:.2f} % last, {max(y):.2f} % best'
        panels.append(Panel('top-1 (%)', {label: (x, y)}))
    if 'warmup' in history.keys:
        label = 'warmup: factor of all distillation losses'
        panels.append(Panel(TermAxis.FACTOR.value, {label: history.curve('warmup')}))
    return panels


def part_name(key: str) -> str:
    """Say what a part of the training loss is."""
    if key == 'loss':
        return 'loss: the sum of all'
    if key.startswith('student.'):
        return f"{key}: the student's own"
    if key.endswith('.scorer_loss'):
        return f'{key}: trains the scorer only'
    return f'{key}: with all its weights'


def title_of(name: str, loss: dict) -> str:
    """Say what strong and weak mean for a loss."""
    describe = getattr(class_of(loss), 'describe_clusters', None)
    clusters = describe(loss) if describe else ''
    title = f'{name} ({class_name(loss["type"])})'
    return f'{title}: {clusters}' if clusters else title


def panel_rows(
    history: History, cfg: Config, losses: dict[str, dict]
) -> dict[str, list[Panel]]:
    """Return the panels of each loss and of the run, by title; no row is empty."""
    net = student_model(cfg)
    classes = (net.get('head') or net).get('num_classes')
    balancer = cfg.model.distiller.get('balancer') or {}
    balanced = balancer.get('losses') or []
    balanced = [balanced] if isinstance(balanced, str) else balanced
    rows = {}
    for name, loss in losses.items():
        aim = balancer.get('ratio', 1.0) / len(balanced) if name in balanced else None
        panels = loss_panels(history, short_name(name), loss, classes, aim)
        rows[title_of(name, loss)] = panels
    rows['the whole run'] = run_panels(history)
    return {title: panels for title, panels in rows.items() if panels}


def draw_terms(history: History, cfg: Config, losses: dict[str, dict]) -> Figure:
    """Draw one row of panels for each loss, and one for the run."""
    rows = panel_rows(history, cfg, losses)
    # A row needs room for the legends above its panels.
    heights = [3.3 + 0.16 * max(p.entries for p in row) for row in rows.values()]
    figure = Figure(figsize=(17, sum(heights)), layout='constrained')
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    panels = [panel for row in rows.values() for panel in row]
    end = max(x[-1] for panel in panels for x, _ in panel.curves.values())
    for part, (title, row) in zip(parts, rows.items(), strict=True):
        part.suptitle(title, x=0.01, ha='left', weight='bold', fontsize=11)
        axes = part.subplots(1, len(row), squeeze=False)[0]
        for axis, panel in zip(axes, row, strict=True):
            draw_panel(axis, panel, history.unit)
            # The limit is set by hand, because with sharex each axis of another row
            # would draw the whole figure.
            axis.set_xlim(0, 1.02 * end)
    return figure


def draw_panel(axis: Axes, panel: Panel, unit: str) -> None:
    """Draw curves, with their explanations above."""
    for label, (x, y) in panel.curves.items():
        marker = '.' if len(x) < 60 else ''
        color = colour_of(label)
        axis.plot(x, y, marker=marker, linewidth=1.4, label=label, color=color)
    styles = (':', '--', '-.')
    for (label, value), style in zip(panel.levels.items(), styles, strict=False):
        axis.axhline(value, color=CHANCE, linestyle=style, linewidth=1.2, label=label)
    if panel.note:
        axis.plot([], [], ' ', label=panel.note)
    axis.set(xlabel=unit, ylabel=panel.ylabel)
    if panel.log:
        log_axis(axis, positive(panel.curves) + [*panel.levels.values()])
    elif panel.ylabel == TermAxis.SHARE.value:
        axis.set_ylim(-0.03, 1.03)
    elif not panel.ylabel.startswith('top-1'):
        low, high = min(0, axis.get_ylim()[0]), axis.get_ylim()[1]
        # A curve that hardly changes would lie on the frame.
        axis.set_ylim(low, high + 0.05 * (high - low))
    # A power of ten above the axis would be hidden by the legend.
    axis.yaxis.set_major_formatter(plain_numbers())
    axis.grid(alpha=0.3)
    axis.legend(
        loc='lower left',
        bbox_to_anchor=(0, 1.01),
        borderaxespad=0,
        frameon=False,
        fontsize=8,
        labelspacing=0.25,
    )


def plain_numbers() -> ticker.Formatter:
    """Return a formatter that writes each number of an axis whole."""
    return ticker.FuncFormatter(lambda value, _: f'{value:g}')


def log_axis(axis: Axes, values: list[float]) -> None:
    """Set a logarithmic axis that has ticks to read, however narrow the range."""
    axis.set_yscale('log', nonpositive='mask')
    if not values:
        return
    low, high = min(values) / 1.2, max(values) * 1.2
    if high < 8 * low:
        middle = (low * high) ** 0.5
        low, high = middle / 8**0.5, middle * 8**0.5
    axis.set_ylim(low, high)
    subs = (1, 2, 5) if high < 1e3 * low else (1,)
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=subs))
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())
