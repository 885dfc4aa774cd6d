"""What a page shows, trained through a Runner in a folder outside the checkout."""

import re
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS
from mmrazor.registry import MODELS

from cakd_mm.utils.net_config import net_config

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r'```(\w+)\n(.*?)```', flags=re.DOTALL)
# The bases of a Digits leaf, for a method.
JOINED = """_base_ = [
    'cakd_mm::_base_/default_runtime.py',
    'cakd_mm::_base_/datasets/digits.py',
    'cakd_mm::_base_/schedules/digits.py',
    'cakd_mm::_base_/pairs/r20_r8_digits.py',
    'cakd_mm::_base_/methods/{method}.py',
]
"""


@DATASETS.register_module()
class Noise(BaseDataset):
    """A few images of noise, in the place of a set that would have to be downloaded."""

    def __init__(self, size: int, classes: int, length: int) -> None:
        self.size, self.classes, self.length = size, classes, length
        names = [str(index) for index in range(classes)]
        pipeline = [dict(type='mmpretrain.PackInputs')]
        super().__init__('', metainfo=dict(classes=names), pipeline=pipeline)

    def load_data_list(self) -> list[dict]:
        numbers = np.random.default_rng(0)
        shape = (self.size, self.size, 3)
        return [
            dict(
                img=numbers.integers(0, 256, shape, dtype=np.uint8),
                gt_label=index % self.classes,
            )
            for index in range(self.length)
        ]


def blocks(page: str, language: str = 'python', heading: str | None = None):
    """Return the blocks of a page, or of one of its sections."""
    text = (ROOT / page).read_text(encoding='utf-8')
    if heading is not None:
        section = text.split(f'# {heading}\n')[1]
        text = re.split(r'^#+ ', section, flags=re.MULTILINE)[0]
    return [code for name, code in BLOCK.findall(text) if name == language]


def shorten(cfg: Config, folder: Path, size: int, images: int = 4) -> Config:
    """Leave all of a config as it is but its data, its length and its places."""
    if isinstance(cfg.model.teacher, list):
        for entry in cfg.model.teacher:
            _write_teacher(entry.net, folder / entry.ckpt)
    else:
        cfg.model.teacher_ckpt = str(folder / 'teacher.pth')
        _write_teacher(cfg.model.teacher, folder / 'teacher.pth')
    classes = net_config(cfg.model.architecture, 'model.architecture').head.num_classes
    data = dict(type='Noise', size=size, classes=classes)
    for stage in ('train', 'val', 'test'):
        loader = cfg[f'{stage}_dataloader']
        loader.dataset = dict(data, length=images)
        loader.update(batch_size=images, num_workers=0, persistent_workers=False)
    cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.logger.interval = 1
    cfg.launcher, cfg.experiment_name = 'none', uuid.uuid4().hex
    cfg.work_dir = str(folder / 'run')
    return cfg


def _write_teacher(net: dict, path: Path) -> None:
    net = net_config(net, 'model.teacher')
    # What of it only a distillation reads, such as a size, is left out.
    net.pop('data_preprocessor', None)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        teacher = MODELS.build(net)
    teacher.init_weights()
    torch.save(dict(state_dict=teacher.state_dict()), path)


def train_page(config: str, folder: Path, size: int = 32, **options) -> Runner:
    """Write a page's config into a folder, train it for a step and score it there.

    Keys of ``options``, which are merged, have ``__`` for the dot.

    Returns:
        Runner: The one that has trained; what it logged is in ``message_hub``.
    """
    path = folder / 'own.py'
    path.write_text(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cfg = Config.fromfile(path)
        cfg.merge_from_dict({k.replace('__', '.'): v for k, v in options.items()})
        runner = Runner.from_cfg(shorten(cfg, folder, size))
        runner.train()
    assert (runner.epoch, runner.iter) == (1, 1)
    assert (folder / 'run' / 'student.pth').is_file()
    return runner


def losses_of(runner: Runner) -> dict[str, float]:
    """Return the losses of the one step that was trained."""
    scalars = runner.message_hub.log_scalars
    found = {
        name.removeprefix('train/'): float(history.current())
        for name, history in scalars.items()
        if name.startswith(('train/student.', 'train/distill.'))
    }
    assert all(np.isfinite(value) and value > 0 for value in found.values()), found
    return found


def check_losses(code: str) -> None:
    """Run a page's calls of losses with what a training loop has at hand."""
    torch.manual_seed(0)
    names = {
        'student_logits': torch.randn(4, 10),
        'teacher_logits': torch.randn(4, 10),
        'labels': torch.arange(4),
        'strong_mask': torch.rand(4, 10) > 0.5,
        'student_feature': torch.randn(4, 32),
        'teacher_feature': torch.randn(4, 32).relu(),
    }
    exec(code, names)
    assert names['bcd'].shape == (4,)
    assert names['loss'] > 0 and names['feature_loss'] > 0
