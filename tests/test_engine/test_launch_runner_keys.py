"""Top-level keys that mmengine's runners read are looked at before building."""

from types import SimpleNamespace

import pytest
from mmengine.registry import DefaultScope
from tiny import digits_config

from cakd_mm.engine.launch.runner_keys import check_runner_keys
from cakd_mm.engine.loops import ResumableTrainLoop

DEMO, PLAIN = 'cakd/demo_digits.py', 'vanilla/resnet20_digits.py'
FSDP, STATIC = 'MMFullyShardedDataParallel', dict(static_graph=True)


@pytest.mark.parametrize(
    'name, options, words',
    [
        (DEMO, dict(runner_type='FlexibleRunner'), ('runner_type', 'Remove it')),
        (PLAIN, dict(runner_type='FlexibleRunner'), ('runner_type', 'Remove it')),
        (DEMO, dict(runner_type='Runer'), ('runner_type', "'Runner'")),
        (DEMO, dict(strategy=dict(type='DDPStrategy')), ('strategy', 'teacher_shard')),
        (DEMO, dict(model_wrapper_cfg=dict(type=FSDP)), (FSDP, 'teacher_shard=True')),
        (DEMO, dict(model_wrapper_cfg=True), ('model_wrapper_cfg', 'dict')),
        (
            DEMO,
            dict(model_wrapper_cfg=dict(find_unused=True)),
            ('model_wrapper_cfg.find_unused`', "'find_unused_parameters'"),
        ),
        (
            DEMO,
            dict(model_wrapper_cfg=dict(static_graph='yes')),
            ('model_wrapper_cfg.static_graph', 'True or False'),
        ),
        (DEMO, dict(find_unused_parameters='no'), ('find_unused_parameters', 'False')),
        (DEMO, dict(sync_bn='pytorch'), ('sync_bn', "'torch' or 'mmcv'")),
        (DEMO, dict(compile='yes'), ('compile', "mode='default'")),
        (DEMO, dict(compile=dict(mode='fast')), ('compile', 'fast', 'max-autotune')),
    ],
)
def test_what_is_refused_names_key_and_remedy(name, options, words):
    cfg = digits_config(name, **options)
    with (
        DefaultScope.overwrite_default_scope('mmpretrain'),
        pytest.raises((KeyError, TypeError, ValueError)) as error,
    ):
        check_runner_keys(cfg)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    'name, options',
    [
        (DEMO, {}),
        (DEMO, dict(runner_type='Runner', strategy=None, sync_bn='torch')),
        (DEMO, dict(model_wrapper_cfg=STATIC, find_unused_parameters=True)),
        (DEMO, dict(compile=dict(backend='eager', dynamic=False))),
        (PLAIN, dict(model_wrapper_cfg=dict(type=FSDP), compile=True)),
    ],
)
def test_what_works_is_not_refused(name, options):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        check_runner_keys(digits_config(name, **options))


def test_a_runner_without_a_model_is_refused_by_the_loop():
    """FlexibleRunner.from_cfg is called without the tools, too."""
    with pytest.raises(ValueError, match='`runner_type` = .SimpleNamespace.*Remove'):
        ResumableTrainLoop(SimpleNamespace(model={}), {}, max_epochs=1)
