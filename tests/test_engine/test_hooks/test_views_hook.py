"""Runs on two views of each image, and batches whose views do not fit the losses."""

import types

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseDataPreprocessor
from mmpretrain.models.utils import RandomBatchAugment
from mmpretrain.structures import DataSample
from test_sample_index_hook import crd_config, finish, load
from tiny import CONFIGS, digits_config, distill_config
from torch import nn
from torch.testing import assert_close

from cakd_mm.engine.hooks import ViewsHook, non_finite_cause
from cakd_mm.models.losses import DecoupledKDLoss, MLKDLoss

LEAF = 'mlkd/mlkd_r20_r8_digits.py'


def views(count, images=2):
    return dict(inputs=[torch.zeros(images, 3, 4, 4)] * count)


def runner_of(*losses, augments=None):
    distiller = nn.Module()
    distiller.distill_losses = nn.ModuleDict({str(i): x for i, x in enumerate(losses)})
    model = nn.Module()
    model.distiller = distiller
    model.data_preprocessor = BaseDataPreprocessor()
    model.data_preprocessor.batch_augments = augments
    return types.SimpleNamespace(model=model)


def look_at(batch, *losses, augments=None):
    hook, runner = ViewsHook(), runner_of(*losses, augments=augments)
    hook.before_train(runner)
    hook.before_train_iter(runner, 0, batch)


# What is refused, and what is not


@pytest.mark.parametrize('count', [1, 2, 3])
def test_an_ordinary_loss_takes_any_views(count):
    batch = views(count) if count > 1 else dict(inputs=torch.zeros(2, 3, 4, 4))
    mixed = RandomBatchAugment(dict(type='Mixup', alpha=1.0))
    look_at(batch, DecoupledKDLoss(), augments=mixed)


@pytest.mark.parametrize(
    ('batch', 'said'),
    [
        (dict(inputs=torch.zeros(4, 3, 4, 4)), '1 view of each'),
        (dict(inputs=[torch.zeros(3, 4, 4)] * 4), '1 view of each'),
        (views(3), '3 views of each'),
    ],
)
def test_a_loss_of_two_views_takes_no_others(batch, said):
    look_at(views(2), DecoupledKDLoss(), MLKDLoss())
    match = rf'train_dataloader\.dataset\.pipeline.*{said}.*MLKDLoss compares 2'
    with pytest.raises(ValueError, match=match):
        look_at(batch, DecoupledKDLoss(), MLKDLoss())


def test_mixed_images_are_refused():
    mixed = RandomBatchAugment(dict(type='CutMix', alpha=1.0))
    match = r'data_preprocessor\.batch_augments.*RandomBatchAugment.*MLKDLoss'
    with pytest.raises(ValueError, match=match):
        look_at(views(2), MLKDLoss(), augments=mixed)


class Known(nn.Module):
    """A loss of a user that asks for the training set."""

    def set_dataset(self, labels, seed, batch_size):
        pass


def test_a_loss_that_knows_images_by_their_place_is_refused():
    look_at(dict(inputs=torch.zeros(2, 3, 4, 4)), Known())
    with pytest.raises(ValueError, match='2 views.*Known knows images by their place'):
        look_at(views(2), Known())


class OfTwo(nn.Module):
    """A loss of a user that says how many views it compares."""

    views = 2


def test_a_foreign_loss_answers_for_itself():
    look_at(views(2), OfTwo())
    with pytest.raises(ValueError, match='OfTwo compares 2'):
        look_at(views(3), OfTwo())


# Whole runs


def config(folder, **options):
    return distill_config(folder, LEAF, images=72, **options)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A run of two epochs of three steps, the last of them of eight images."""
    folder = tmp_path_factory.mktemp('views')
    cfg = config(folder)
    return folder, cfg, finish(cfg, folder / 'run')


def test_both_nets_see_both_views_of_the_same_images(whole):
    _, _, runner = whole
    fed = runner.model.distiller.fed
    student, teacher = (fed('loss_mlkd', f'preds_{side}') for side in 'ST')
    assert student.shape == teacher.shape == (16, 10)
    [recorded] = runner.model.distiller.student_recorders.get_recorder(
        'gt_labels'
    ).data_buffer
    labels = recorded[1]
    assert torch.equal(labels[:8], labels[8:])
    # The views differ, and so do their scores.
    assert not torch.allclose(teacher[:8], teacher[8:], atol=1e-2)
    terms = runner.model.distiller.distill_losses['loss_mlkd'].terms
    assert terms['share'] == 0.5


def test_a_run_that_goes_on_equals_the_whole_one(whole):
    """From within an epoch, and with workers."""
    folder, cfg, runner = whole
    want = runner.model.state_dict()
    for step, workers in ((2, 0), (3, 2)):
        first = folder / 'run' / f'iter_{step}.pth'
        found = finish(cfg, folder / f'from_{step}', workers, first)
        assert_close(found.model.state_dict(), want, rtol=0, atol=0)
    assert not torch.equal(
        load(folder / 'run' / 'iter_1.pth')['architecture.head.fc.weight'],
        want['architecture.head.fc.weight'],
    )


def test_one_view_is_refused_before_the_first_step(tmp_path):
    cfg = config(tmp_path)
    cfg.train_dataloader.dataset.pipeline = digits_config(
        'dkd/dkd_r20_r8_digits.py'
    ).train_dataloader.dataset.pipeline
    with pytest.raises(ValueError, match=r'1 view of each image.*configs/_base_/views'):
        finish(cfg, tmp_path / 'run')
    assert (CONFIGS / '_base_' / 'views').is_dir()


def test_crd_is_refused(tmp_path):
    cfg = crd_config(tmp_path)
    cfg.train_dataloader.dataset.pipeline = config(
        tmp_path
    ).train_dataloader.dataset.pipeline
    cfg.default_hooks.views = ConfigDict(type='ViewsHook')
    with pytest.raises(ValueError, match=r'2 views.*CRDBankLoss.*Remove MultiView'):
        finish(cfg, tmp_path / 'run')


def test_resident_data_are_refused(tmp_path):
    cfg = config(tmp_path, train_cfg__resident=True)
    with pytest.raises(ValueError, match=r'MultiView.*train_cfg\.resident=False'):
        finish(cfg, tmp_path / 'run')


def test_a_huge_pixel_of_a_later_view_is_found_with_its_image():
    batch = views(2, images=3)
    batch['inputs'] = [view.clone() for view in batch['inputs']]
    batch['inputs'][1][2, 0, 0, 0] = float('inf')
    batch['data_samples'] = [
        DataSample(metainfo=dict(img_path=f'{name}.png')) for name in 'abc'
    ]
    found = non_finite_cause._extreme_image(batch)
    assert found == 'Image 5 of the batch (c.png) has a pixel of inf'
