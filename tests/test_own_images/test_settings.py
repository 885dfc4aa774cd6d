"""The numbers that nobody has said."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from own_images import options

from cakd_mm.datasets.class_folders import ClassFolders
from cakd_mm.own_images.leaf import data_text
from cakd_mm.own_images.settings import Settings, optimizer_for


@pytest.mark.parametrize(
    ('given', 'side', 'images', 'has_gpu', 'expected'),
    [
        ({}, 30, 5000, False, (32, 64, 30, 0)),
        ({}, 300, 200, False, (224, 20, 30, 2)),
        ({}, 300, 200, True, (224, 20, 100, 2)),
        ({}, 50, 5000, True, (64, 64, 30, 2)),
        ({}, 8, 5, False, (32, 5, 30, 0)),
        (dict(size=96, batch_size=7, epochs=2), 8, 50, False, (96, 7, 2, 0)),
    ],
)
def test_settings(given, side, images, has_gpu, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: has_gpu)
    monkeypatch.setattr('cakd_mm.own_images.settings.cores', lambda: 2)
    found = Settings.choose(options(Path(), **given), [side], images)
    assert (found.size, found.batch_size, found.epochs, found.workers) == expected


@pytest.mark.parametrize(
    ('arguments', 'kind', 'rate'),
    [
        ((True, False, 64), 'SGD', 0.05),
        ((True, True, 32), 'SGD', 0.005),
        ((False, False, 64), 'AdamW', 5e-4),
        ((False, True, 64), 'AdamW', 1e-4),
    ],
)
def test_the_optimizer(arguments, kind, rate):
    found = optimizer_for(*arguments)
    assert (found['type'], found['lr']) == (kind, rate)


def test_photographs_are_cropped_and_mirrored(tmp_path):
    folders = ClassFolders(tmp_path, ('a', 'b'), [], [], None, [])
    (tmp_path / 'data.py').write_text(
        data_text(folders, Settings(224, 64, 100, 4), tmp_path)
    )
    cfg = Config.fromfile(tmp_path / 'data.py')
    train = cfg.train_dataloader.dataset.pipeline
    test = cfg.test_dataloader.dataset.pipeline
    assert (train[1].scale, train[2].type) == (224, 'RandomFlip')
    assert (test[1].scale, test[2].crop_size) == (256, 224)
    assert cfg.train_dataloader.persistent_workers is True
