"""The tab of the configs: what differs, and each of them whole."""

from collections.abc import Sequence

from ..sweep import differing, dotted, shown_at
from .blocks import Block, Folded, Heading, Tab, Table, Text
from .entries import Entry


def configs_tab(entries: Sequence[Entry]) -> Tab:
    """Return the keys that differ, side by side, and the whole configs, folded."""
    paths = differing([entry.group.settings for entry in entries])
    blocks: list[Block] = []
    if paths:
        rows = [
            [dotted(path), *(shown_at(path, entry.group) for entry in entries)]
            for path in paths
        ]
        head = ['key', *(entry.label for entry in entries)]
        caption = (
            'Keys without influence on the result are left out: the seed, places, and '
            'what is only logged. A part that differs entirely is named by its type.'
        )
        blocks.append(Table(head, rows, caption))
    else:
        blocks.append(Text('There is one config, so that nothing differs.'))
    blocks.append(Heading('The whole configs'))
    blocks += [
        Folded(f'{entry.label}: {run.cfg.filename}', run.cfg.text)
        for entry in entries
        for run in entry.group.runs[:1]
    ]
    return Tab('Configs', blocks)
