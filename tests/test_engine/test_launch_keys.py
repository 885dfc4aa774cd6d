"""Top-level keys that nobody reads, and hooks that None switches off."""

import numpy
import pytest
from mmengine.config import Config
from tiny import CONFIGS, digits_config

from cakd_mm.engine.launch.keys import READ, unread_keys, without_switched_off

DEMO = CONFIGS / 'cakd/demo_digits.py'
LEAVES = [path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts]


@pytest.mark.parametrize(
    ('key', 'value', 'meant'),
    [
        ('default_hookss', dict(timer=None), 'default_hooks'),
        ('data_preprocessors', dict(mean=[0]), 'data_preprocessor'),
        ('param_schedulers', [], 'param_scheduler'),
        ('load_form', 'a.pth', 'load_from'),
        ('optim_wraper', dict(optimizer=dict(lr=3.0)), 'optim_wrapper'),
        ('custom_hook', [dict(type='EMAHook')], 'custom_hooks'),
        ('teacher_checkpoint', 'a.pth', 'model.teacher_ckpt'),
        ('optimizer', dict(type='Adam'), 'optim_wrapper'),
        ('max_epochs', 7, 'train_cfg.max_epochs'),
        ('seed', 7, 'randomness.seed'),
    ],
)
def test_names_what_is_meant(key, value, meant):
    cfg = digits_config(DEMO, **{key: value})
    [sentence] = unread_keys(cfg)
    assert sentence.startswith(f'`{key}` = ')
    assert f'Nobody reads this key. Write {meant} if' in sentence


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('teacher_ckpt', 'other.pth'),
        ('student_loss_weight', 0.5),
        ('calculate_student_loss', False),
        ('teacher_runtime', dict(type='TeacherRuntime')),
    ],
)
def test_refuses_an_argument_of_our_model(key, value):
    cfg = digits_config(DEMO, **{key: value})
    with pytest.raises(ValueError, match=rf'`{key}` = .*Write model=dict\({key}='):
        unread_keys(cfg)


def test_refuses_a_distiller_that_a_leaf_writes_beside_its_model(tmp_path):
    leaf = tmp_path / 'leaf.py'
    leaf.write_text(f'_base_ = {str(DEMO)!r}\n')
    assert unread_keys(Config.fromfile(leaf)) == []
    leaf.write_text(leaf.read_text() + 'distiller = dict(balancer=dict(ratio=2.0))\n')
    with pytest.raises(ValueError, match='`distiller` = '):
        unread_keys(Config.fromfile(leaf))


def test_a_variable_whose_value_is_read_is_no_mistake():
    cfg = digits_config(DEMO)
    cfg.test_pipelines = cfg.val_dataloader.dataset.pipeline
    cfg.max_epochs = cfg.train_cfg.max_epochs
    cfg.load_form = cfg.model.teacher_ckpt
    cfg.my_number = 7
    cfg.optimizer = None
    assert unread_keys(cfg) == []


def test_a_variable_of_a_base_is_no_mistake_where_its_entries_change(tmp_path):
    base, leaf = tmp_path / 'base.py', tmp_path / 'leaf.py'
    base.write_text(
        "data_root = 'a'\ntrain_dataloader = dict(dataset=dict(data_root=data_root))\n"
    )
    leaf.write_text("_base_ = 'base.py'\n")
    moved = {'train_dataloader.dataset.data_root': 'b'}
    cfg = Config.fromfile(leaf)
    cfg.merge_from_dict(moved)
    assert unread_keys(cfg) == []
    # Whoever writes the variable means it, as an option or in a file.
    cfg.data_root = 'c'
    [sentence] = unread_keys(cfg)
    assert 'Write train_dataloader.dataset.data_root if' in sentence
    leaf.write_text("_base_ = 'base.py'\ndata_root = 'a'\n")
    cfg = Config.fromfile(leaf)
    cfg.merge_from_dict(moved)
    assert len(unread_keys(cfg)) == 1


def test_numbers_of_numpy_are_no_mistake():
    cfg = digits_config(DEMO, data_preprocessor__mean=[numpy.float32(77.8)] * 3)
    assert unread_keys(cfg) == []


def test_no_key_of_our_configs_is_a_mistake():
    found = {path.name: unread_keys(Config.fromfile(path)) for path in LEAVES[::16]}
    assert len(found) > 15
    assert {name: texts for name, texts in found.items() if texts} == {}


def test_a_key_of_a_model_of_others_is_only_mentioned(tmp_path):
    name = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
    leaf = tmp_path / 'leaf.py'
    leaf.write_text(f"_base_ = '{name}'\npretrained = 'a.pth'\n")
    [sentence] = unread_keys(Config.fromfile(leaf))
    assert 'Write model.pretrained if' in sentence


def test_options_and_keys_know_the_same_names():
    assert {'auto_scale_lr', 'model_wrapper_cfg', 'strategy', 'default_hooks'} < READ
    assert not {'self', 'cfg', 'distiller'} & READ


def test_none_stays_only_where_mmengine_takes_it():
    hooks = dict(timer=None, finite=None, terms=dict(type='A'), checkpoint=None)
    left = without_switched_off(hooks)
    assert left == dict(timer=None, terms=dict(type='A'), checkpoint=None)


def test_names_a_hook_that_is_not_switched_off():
    cfg = digits_config(DEMO, default_hooks__finit=None)
    cfg.default_hooks.terms = None
    [sentence] = unread_keys(cfg)
    assert sentence == (
        '`default_hooks.finit` = None: It switches nothing off, and there is '
        'default_hooks.finite. Write finite=None if that is meant.'
    )
