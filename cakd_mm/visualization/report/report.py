"""What a report says of some runs."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ...utils.errors import first_of
from ..sweep import read_run
from .accuracy import accuracy_tab
from .blocks import Key
from .configs import configs_tab
from .differences import table_tab
from .entries import entries_of
from .facts import runs_tab
from .page import render
from .predictions import predictions_tab
from .term_plots import terms_tab

# How many validation images the students are shown, unless somebody says otherwise.
MOST_IMAGES = 1000


def report(
    work_dirs: Sequence[Path], images: int, tell: Callable[[str], None]
) -> bytes:
    """Return the page of some runs, in HTML.

    Args:
        work_dirs: Where the runs are, see :func:`sweep.find_runs`.
        images: How many validation images are shown to the students, at most.
        tell: Is given a sentence on what takes time, or could not be done.

    Raises:
        FileNotFoundError: a run has no config.
    """
    runs = [read_run(work_dir) for work_dir in work_dirs]
    entries = entries_of(runs)
    done = sum(run.finished for run in runs)
    finished = 'all' if done == len(runs) else f'{done} of them'
    lead = [
        f'Runs: {len(runs)}; configs: {len(entries)}; finished: {finished}. '
        'Runs whose configs differ in the seed alone are taken together. Top-1 is that '
        'of the validation images after the last epoch, unless something else is said.'
    ]
    tabs = [
        accuracy_tab(entries),
        table_tab(entries),
        terms_tab(entries),
        configs_tab(entries),
        predictions_tab(entries, images, tell),
        runs_tab(entries),
    ]
    legend = [Key(entry.label, entry.colour) for entry in entries]
    names = [*dict.fromkeys(entry.group.config for entry in entries)]
    return render(f'Runs of {first_of(names)}', lead, tabs, legend)
