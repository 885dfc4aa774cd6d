"""The tab of what was run: packages, machine, time and teacher, from the logs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from ..sweep import DASH, SweptRun
from .blocks import Block, Heading, Listing, Tab, Table, Text
from .entries import Entry

# All of it is written before the first step; the config is in between.
READ = 1_000_000  # characters
PACKAGES = {
    'cakd_mm': r'cakd_mm (\d\S*), ',
    'PyTorch': r'^ +PyTorch: (\S+)',
    'MMEngine': r'^ +MMEngine: (\S+)',
    'Python': r'^ +Python: (\S+)',
}
GPU = r'^ +GPU [\d,]+: (.+)$'
THREADS = r' - (Computing with .+)$'
TEACHER = r" - (The teacher(?: '.*')? (?:is|has) .+)$"


@dataclass(frozen=True)
class Facts:
    """What the log of a run's last start says; empty where it says nothing.

    Attributes:
        packages: Names and versions.
        machine: Its GPUs, or that it has none.
        teachers: A sentence on each teacher, with its score if that is known.
    """

    packages: str
    machine: str
    teachers: list[str]


def read_facts(work_dir: Path) -> Facts:
    """Read what the log of the last start of a run says of where it was made."""
    logs = sorted(work_dir.glob('*/*.log'))
    text = ''
    if logs:
        with logs[-1].open(encoding='utf-8', errors='replace') as file:
            text = file.read(READ)
    packages = [
        f'{name} {match[1]}'
        for name, pattern in PACKAGES.items()
        if (match := re.search(pattern, text, re.MULTILINE))
    ]
    gpus = re.findall(GPU, text, re.MULTILINE)
    threads = re.findall(THREADS, text, re.MULTILINE)
    if not gpus and 'CUDA available: False' in text:
        gpus = ['no GPU']
    return Facts(
        ', '.join(packages),
        '. '.join(gpus + threads[-1:]),
        list(dict.fromkeys(re.findall(TEACHER, text, re.MULTILINE))),
    )


def duration(run: SweptRun) -> str:
    """Return how long the steps of an epoch took, or one step, without validation."""
    times = [line['time'] for line in run.history.train if 'time' in line]
    if not times:
        return DASH
    steps = run.history.steps_per_epoch
    if steps is None:
        return f'{mean(times):.3g} s a step'
    return f'{mean(times) * steps:.3g} s an epoch'


def runs_tab(entries: Sequence[Entry]) -> Tab:
    """Return a row for each run, and what the logs say of the teachers."""
    rows, teachers = [], {}
    for entry in entries:
        for run in entry.group.runs:
            facts = read_facts(run.work_dir)
            teachers.update(dict.fromkeys(facts.teachers))
            # Of a run with other scores than top-1 nobody knows here whether it is.
            part = ', unfinished' if run.scores and not run.finished else ''
            rows.append(
                [
                    str(run.work_dir),
                    entry.label,
                    run.shown_seed,
                    f'{run.end} of {run.length} {run.unit}{part}',
                    duration(run),
                    facts.machine or DASH,
                    facts.packages or DASH,
                ]
            )
    head = ['work dir', 'config', 'seed', 'scored', 'training', 'machine', 'packages']
    caption = (
        'From the logs of the last start. The time is that of the training steps, '
        'without validation and checkpoints.'
    )
    blocks: list[Block] = [Table(head, rows, caption), Heading('Teachers')]
    if teachers:
        blocks.append(Listing([f'{sentence}.' for sentence in teachers]))
    else:
        blocks.append(Text('The logs name no teacher.'))
    return Tab('Runs', blocks)
