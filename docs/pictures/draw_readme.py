"""Draw README's picture: what CAKD compares for one scan, and what it gains.

``make demo`` first, because the nets on the left are the demo's of seed 0. The right
side reads ``research/results/table_cifar10-mini.json``::

    .venv/bin/python docs/pictures/draw_readme.py work_dirs/demo
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmengine.config import Config
from mmpretrain import get_model
from mmpretrain.registry import DATASETS
from torch import Tensor

import cakd_mm  # noqa: F401  (registers the nets and the data)
from cakd_mm.models.losses.functional import decoupled_kl
from cakd_mm.visualization.observe import latest_checkpoint

HERE = Path(__file__).resolve().parent
TABLE = HERE.parents[1] / 'research' / 'results' / 'table_cifar10-mini.json'
TAU = 4.0  # the demo's
LABEL, OTHERS, STUDENT = '#2f6db5', '#e08a2b', '#333333'
ROWS = {
    'CMKD': 'CMKD',
    'KD': 'KD',
    'NKD': 'NKD',
    'ReviewKD': 'ReviewKD',
    'DKD': 'DKD',
    'CAKD logit & single, network': 'CAKD, logits and feature',
    'control: random mask': 'its control: random clusters',
}


def logits_of(work_dir: Path, images: Tensor) -> Tensor:
    """Return the logits of a plain net of the demo, (N, 10)."""
    (config,) = work_dir.glob('*_digits.py')
    net = get_model(Config.fromfile(config), str(latest_checkpoint(work_dir))).eval()
    batch = net.data_preprocessor(dict(inputs=images))
    with torch.no_grad():
        return net(batch['inputs'], mode='tensor')


def draw_scan(axis: Axes, image: np.ndarray, label: int) -> None:
    """Show the scan."""
    axis.imshow(image, cmap='gray_r', interpolation='nearest')
    axis.set(xticks=[], yticks=[], xlabel=f'label: {label}')
    axis.set_title('one scan', fontsize=11)


def draw_probabilities(axis: Axes, teacher: Tensor, student: Tensor, label: int):
    """Draw both distributions over the digits at the demo's temperature."""
    t, s = (logits / TAU for logits in (teacher, student))
    t, s = t.softmax(0).numpy(), s.softmax(0).numpy()
    colours = [LABEL if digit == label else OTHERS for digit in range(10)]
    axis.bar(range(10), t, color=colours, width=0.75)
    axis.plot(range(10), s, 'D', color=STUDENT, markersize=5)
    strong = torch.arange(10)[None] == label
    terms = decoupled_kl(student[None], teacher[None], strong, tau=TAU)
    bcd, _, wcd = (term.item() for term in terms)
    axis.set_title(
        f'what CAKD compares: BCD = {bcd:.3f}, WCD = {wcd:.3f} nats', fontsize=11
    )
    axis.set(xticks=range(10), ylabel=f'probability, tau = {TAU:g}')
    handles = [
        Patch(color=LABEL, label='teacher: the label (strong)'),
        Patch(color=OTHERS, label='teacher: the others (weak)'),
        axis.lines[0],
    ]
    axis.lines[0].set_label('student alone')
    axis.legend(handles=handles, fontsize=9, frameon=False)


def draw_gain(axis: Axes) -> None:
    """Draw the gains of the table with their intervals."""
    (pair,) = json.loads(TABLE.read_text(encoding='utf-8'))['pairs']
    for place, (row, name) in enumerate(ROWS.items()):
        gain = pair['rows'][row]['over']['student']
        colour = LABEL if name.startswith('CAKD') else '#808080'
        axis.errorbar(
            gain['mean'], place, xerr=gain['half'], fmt='o', capsize=3, color=colour
        )
    axis.set_yticks(range(len(ROWS)), ROWS.values())
    axis.axvline(0, color='black', linewidth=0.8)
    axis.set(xlabel='points over the student alone')
    axis.set_title('what each method gains: CIFAR-10, 10,000 images', fontsize=11)


def main() -> None:
    """Draw the picture from the demo in the folder that the command names."""
    demo = Path(sys.argv[1])
    (config,) = (demo / 'teacher').glob('*_digits.py')
    data = DATASETS.build(Config.fromfile(config).test_dataloader.dataset)
    samples = [data[index] for index in range(len(data))]
    images = torch.stack([sample['inputs'] for sample in samples])
    labels = torch.tensor(
        [sample['data_samples'].gt_label.item() for sample in samples]
    )
    teacher = logits_of(demo / 'teacher', images)
    student = logits_of(demo / 'student_seed0', images)
    wrong = (student.argmax(1) != labels) & (teacher.argmax(1) == labels)
    index = int(wrong.nonzero()[0])
    label = int(labels[index])
    figure = Figure(figsize=(13, 3.9), layout='constrained', facecolor='white')
    scan, bars, gain = figure.subplots(1, 3, width_ratios=(1, 2.6, 2.6))
    draw_scan(scan, images[index, 0].numpy(), label)
    draw_probabilities(bars, teacher[index], student[index], label)
    draw_gain(gain)
    for axis in (bars, gain):
        axis.spines[['top', 'right']].set_visible(False)
    figure.savefig(HERE / 'what_is_distilled.png', dpi=100)


if __name__ == '__main__':
    main()
