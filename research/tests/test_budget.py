import argparse

import pytest
from mmengine.config import Config, DictAction
from tiny import CONFIGS

from research.budget import (
    HELD_OUT,
    SPEEDS,
    held_out_options,
    length_options,
    speed_options,
)

PAPER = CONFIGS / 'dkd' / 'dkd_r56_r20_tinyimagenet.py'


def merged(path, options):
    """The config with options as tools/train.py reads them."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(parser.parse_args(['--cfg-options', *options]).cfg_options)
    return cfg


def at(path, epochs, data='tinyimagenet'):
    return merged(path, length_options(Config.fromfile(path), epochs, data))


@pytest.mark.parametrize(
    ('epochs', 'milestones', 'warmup'),
    [
        (240, [150, 180, 210], 20),  # the recipe
        (120, [75, 90, 105], 10),
        (24, [15, 18, 21], 2),
        (6, [4, 4, 5], 1),
    ],
)
def test_every_length_keeps_every_share(epochs, milestones, warmup):
    cfg = at(PAPER, epochs)
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.param_scheduler.milestones == milestones
    assert cfg.default_hooks.warmup.epochs == warmup


def test_ctkds_own_schedule_is_scaled():
    path = CONFIGS / 'ctkd' / 'ctkd_r56_r20_tinyimagenet.py'
    loss = Config.fromfile(path).model.distiller.distill_losses.loss_ctkd
    assert loss.epochs == 10
    assert at(path, 48).model.distiller.distill_losses.loss_ctkd.epochs == 2


@pytest.mark.parametrize('epochs', [1, 2, 4, 5, 6, 7, 30, 240])
def test_the_last_five_epochs_are_scored(epochs):
    cfg = at(PAPER, epochs).train_cfg
    # As mmengine's EpochBasedTrainLoop decides.
    [(milestone, later)] = cfg.dynamic_intervals
    scored = [
        epoch
        for epoch in range(1, epochs + 1)
        if epoch >= cfg.val_begin
        and (
            epoch % (later if epoch + 1 >= milestone else cfg.val_interval) == 0
            or epoch == epochs
        )
    ]
    assert scored[-5:] == list(range(max(1, epochs - 4), epochs + 1))
    assert len(scored) <= 12


def test_checkpoints_are_few_but_one_is_kept_while_the_next_is_written():
    hook = at(PAPER, 240).default_hooks.checkpoint
    assert (hook.interval, hook.max_keep_ckpts) == (4, 2)
    assert at(PAPER, 5).default_hooks.checkpoint.interval == 1
    digits = CONFIGS / 'kd' / 'kd_r20_r8_digits.py'
    assert at(digits, 30, 'digits').default_hooks.checkpoint.interval == 3
    in1k = CONFIGS / 'kd' / 'kd_r34_r18_in1k.py'
    assert at(in1k, 100, 'in1k').default_hooks.checkpoint.interval == 1


def test_a_schedule_of_another_kind_is_not_scaled():
    cfg = Config.fromfile(PAPER)
    cfg.param_scheduler = [dict(type='CosineAnnealingLR')]
    assert length_options(cfg, 240, 'tinyimagenet')
    with pytest.raises(ValueError, match='param_scheduler'):
        length_options(cfg, 24, 'tinyimagenet')


@pytest.mark.parametrize(
    ('speed', 'resident', 'teacher', 'compiled', 'wrapper'),
    [
        ('plain', None, None, False, 'OptimWrapper'),
        ('resident', True, None, False, 'OptimWrapper'),
        ('lossless', True, 'float32', True, 'OptimWrapper'),
        ('bf16-teacher', True, 'bfloat16', True, 'OptimWrapper'),
        ('bf16', True, 'bfloat16', True, 'AmpOptimWrapper'),
    ],
)
def test_speeds(speed, resident, teacher, compiled, wrapper):
    cfg = merged(PAPER, ['a=1', *speed_options(speed, 'tinyimagenet', True)])
    assert cfg.train_cfg.get('resident') == resident
    assert cfg.val_cfg.get('type') == ('ResidentValLoop' if resident else None)
    assert cfg.model.get('teacher_runtime', {}).get('dtype') == teacher
    assert ('student_runtime' in cfg.default_hooks) is compiled
    assert cfg.optim_wrapper.get('type', 'OptimWrapper') == wrapper


def test_a_speed_is_for_what_is_there():
    """A plain student has no teacher to make fast; ImageNet does not fit in memory."""
    for speed in SPEEDS:
        assert not any('teacher' in x for x in speed_options(speed, 'digits', False))
    assert not any('resident' in x for x in speed_options('bf16', 'in1k', True))
    of_views = speed_options('lossless', 'digits', True, fits=False)
    whole = speed_options('lossless', 'digits', True)
    assert set(whole) - set(of_views) == {'train_cfg.resident=True'}
    with pytest.raises(ValueError, match='--speed'):
        speed_options('fast', 'digits', True)


@pytest.mark.parametrize('data', HELD_OUT)
def test_held_out_images_are_none_that_anything_is_trained_on(data):
    path = CONFIGS / 'kd' / f'kd_r20_r8_{data}.py'
    cfg = merged(path, ['a=1', *held_out_options(data)])
    trained = cfg.train_dataloader.dataset
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        scored = loader.dataset
        assert (scored.data_root, scored.data_prefix) == (
            trained.data_root,
            trained.data_prefix,
        )
        assert scored.per_class[0] >= trained.per_class[1]
        assert scored.pipeline != trained.pipeline
