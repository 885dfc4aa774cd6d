"""A detector and a segmentor learn the same in a resumed run, and alike on ranks."""

import copy
import logging
import os

import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from dense_nets import gfl
from ranks import two_ranks
from resumed_runs import differences, finish, state
from tiny_scenes import FCN, RETINANET, scenes_config

from cakd_mm.engine import launch
from cakd_mm.utils.model import unwrap

STEPS = 4  # of an epoch, or of all iterations


def detector(epochs=2):
    """A run by epochs, its levels compared by CAKD."""
    levels = ['fpn0', 'fpn4']
    cfg = scenes_config(RETINANET, scenes=2 * STEPS, epochs=epochs)
    cfg.param_scheduler = dict(type='MultiStepLR', milestones=[1])
    kind = dict(type='CAKDFeatureLoss', channels=8, granularity='channel')
    return compared(cfg, dict(type='LevelLoss', loss=kind), levels)


def segmentor():
    """A run by iterations, its places compared by CAKD, with labels."""
    cfg = scenes_config(FCN, scenes=5)
    cfg.model.architecture.decode_head.dropout_ratio = 0.5
    cfg.train_cfg = dict(type='ResumableIterLoop', max_iters=STEPS, val_interval=3)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.param_scheduler = dict(type='PolyLR', by_epoch=False, power=0.9, end=STEPS)
    loss = dict(type='DenseLoss', loss=dict(type='CAKDLogitLoss'), scores_at_once=9999)
    return compared(cfg, loss, 'logits', gt_labels='gt_map')


def compared(cfg, loss, names, **own):
    """Let a config compare what taps of these names record, and log every step."""
    sources = names if isinstance(names, list) else [names]
    taps = {x: dict(type='Tap', source=x) for x in sources}
    distiller = cfg.model.distiller
    distiller.teacher_recorders = copy.deepcopy(taps)
    for name in own.values():
        taps[name] = dict(type='Tap', source=name)
    distiller.student_recorders = taps
    fed = {f'preds_{x}': dict(recorder=names, from_student=x == 'S') for x in 'ST'}
    fed |= {key: dict(recorder=x, from_student=True) for key, x in own.items()}
    distiller.distill_losses = dict(loss_dense=loss)
    distiller.loss_forward_mappings = dict(loss_dense=fed)
    cfg.default_hooks.logger.interval = 3
    cfg.optim_wrapper.optimizer.momentum = 0.9
    return cfg


@pytest.mark.parametrize(
    ('make', 'steps', 'done', 'term'),
    [(detector, 2 * STEPS, 5, 'dense/bcd_1'), (segmentor, STEPS, 2, 'dense/wcd')],
)
def test_resumed_equals_uninterrupted(make, steps, done, term, tmp_path):
    """It goes on within an epoch, or within a pass, and between two lines."""
    cfg = make()
    expected = state(finish(cfg, tmp_path / 'whole'))
    checkpoint = tmp_path / 'whole' / f'iter_{done}.pth'
    found = state(finish(cfg, tmp_path / 'resumed', checkpoint=checkpoint))
    assert differences(found, expected) == []
    assert f'/logged/train/{term}/0' in expected
    assert any(name.startswith('/scores/val/') for name in expected)


def of_one_step(make, batch, folder, launcher):
    """Train a step of four images on all ranks.

    Return the student's weights, how far the farthest went, and what is logged.
    """
    cfg = make()
    cfg.model.architecture.backbone.norm_eval = True
    cfg.train_dataloader.update(batch_size=batch)
    loop = cfg.train_cfg
    loop['max_epochs' if 'max_epochs' in loop else 'max_iters'] = 1
    cfg.default_hooks.checkpoint.by_epoch = 'max_epochs' in loop
    for part in ('dataloader', 'evaluator', 'cfg'):
        cfg[f'val_{part}'] = None
    cfg.default_hooks.pop('extract')
    cfg.default_hooks.logger.interval = 1
    cfg.update(launcher=launcher, work_dir=str(folder), experiment_name=folder.name)
    launch.adapt_to_device(cfg)
    runner = launch.build_runner(cfg)
    student = unwrap(runner.model).student
    begin = copy.deepcopy(student.state_dict())
    runner.train()
    weights = student.state_dict()
    way = max(
        (x - begin[k]).abs().max() for k, x in weights.items() if x.is_floating_point()
    )
    scalars = runner.message_hub.log_scalars
    logged = {k: x.data[0].tolist() for k, x in scalars.items() if 'time' not in k}
    return weights, float(way), logged


def positives_counted_over_ranks():
    """A GFL, which divides its losses by the boxes that all ranks have.

    It divides by no less than 1, which it would do here with the scores of 0.01 that a
    head begins with. Here it begins with 0.5.
    """
    cfg = detector(epochs=1)
    begin = dict(type='Normal', layer='Conv2d', std=0.01)
    sizes = dict(num_classes=10, in_channels=8, feat_channels=8)
    head = gfl()['bbox_head'] | sizes | dict(init_cfg=begin)
    for side in ('architecture', 'teacher'):
        net = cfg.model[side]
        net.type, net.bbox_head, net.train_cfg = 'GFL', head, gfl()['train_cfg']
    cfg.train_dataloader.dataset.scenes = 4
    return cfg


def without_norm_in_the_head():
    cfg = segmentor()
    for side in ('architecture', 'teacher'):
        cfg.model[side].decode_head.update(norm_cfg=None, dropout_ratio=0.0)
    return cfg


@pytest.mark.parametrize(
    'make', [positives_counted_over_ranks, without_norm_in_the_head]
)
def test_two_ranks_learn_what_one_learns_from_their_images(make, tmp_path):
    """Without statistics of a batch: the same weights, and the mean of all losses."""
    weights, way, logged = of_one_step(make, 4, tmp_path / 'alone', 'none')

    def work(rank):
        os.environ['LOCAL_RANK'] = str(rank)  # which mmengine reads
        logging.disable()
        return of_one_step(make, 2, tmp_path / 'both', 'pytorch')

    (mine, _, first), (other, _, second) = two_ranks(work, tmp_path)
    assert mine.keys() == other.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(mine[name], other[name]), name
        torch.testing.assert_close(mine[name], value, rtol=0, atol=1e-5)
    assert way > 1e-3
    assert first.keys() == second.keys() == logged.keys()
    for name, [value] in logged.items():
        mean = (first[name][0] + second[name][0]) / 2
        assert mean == pytest.approx(value, rel=1e-4), name
