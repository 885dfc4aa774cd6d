"""Made-up runs for reports, and a report taken to pieces."""

import json
import re
from html import unescape
from typing import NamedTuple

from tiny import CONFIGS
from tiny_runs import METRIC, write_log

PLAIN, CAKD = CONFIGS / 'vanilla/resnet8_digits.py', CONFIGS / 'cakd/demo_digits.py'
# Neither of them may become a part of the page.
VALUE = '</script><script>window.hit = 1</script>'
FOLDER = '<img src=x onerror="window.hit = 1">'


def make_run(work_dir, base, scores, seed=0, length=6, lines='', name='x', **terms):
    """Leave what a run leaves; terms have a value for each epoch."""
    work_dir.mkdir(parents=True)
    config = work_dir / f'{name}.py'
    text = f'_base_ = {str(base)!r}\nrandomness = dict(seed={seed})\n'
    config.write_text(f'{text}train_cfg = dict(max_epochs={length})\n{lines}\n')
    log = []
    for epoch in range(1, max(len(scores), 1) + 1):
        own = {key.replace('__', '/'): terms[key][epoch - 1] for key in terms}
        log.append(dict(loss=1 / epoch, time=0.25, epoch=epoch, step=4 * epoch, **own))
    log += [{METRIC: score, 'step': epoch} for epoch, score in enumerate(scores, 1)]
    write_log(work_dir, log, config=config)
    return work_dir


class Page(NamedTuple):
    """A report and what its scripts read."""

    text: str
    figures: dict

    def section(self, title: str) -> str:
        """Return the text of a tab without tags, one cell or paragraph a line."""
        [found] = re.findall(
            rf'<section id="tab-\d">\n<h2>{title}</h2>(.*?)</section>', self.text, re.S
        )
        lines = [unescape(x).strip() for x in re.split(r'<[^>]*>', found)]
        return '\n'.join(line for line in lines if line)

    def rows(self, title: str) -> list[list[str]]:
        """Return the cells of the tables of a tab."""
        [found] = re.findall(
            rf'<section id="tab-\d">\n<h2>{title}</h2>(.*?)</section>', self.text, re.S
        )
        return [
            [unescape(x) for x in re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row)]
            for row in re.findall(r'<tr>(.*?)</tr>', found, re.S)
        ]


def read_page(content: bytes) -> Page:
    """Take a page to pieces."""
    text = content.decode()
    [data] = re.findall(r'<script type="application/json" id="figures">(.*?)<', text)
    return Page(text, json.loads(data))
