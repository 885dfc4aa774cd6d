"""The compiled student is the student, and nobody else sees it."""

import json
from pathlib import Path

import pytest
import torch
from tiny import SMALL, digits_config, distill_config, save_teacher

from cakd_mm.engine.hooks import student_runtime_hook

HOOK = dict(type='StudentRuntimeHook')


class Calls(list):
    """Whether gradients were on, and the size of the batch, of each call."""


@pytest.fixture
def counted(monkeypatch):
    """Count the calls of what would be compiled, without the wait."""
    calls = Calls()

    def compiled(function, key, **options):
        calls.options = options

        def run(*args, **kwargs):
            calls.append((torch.is_grad_enabled(), len(args[0])))
            return function(*args, **kwargs)

        return run

    monkeypatch.setattr(student_runtime_hook, 'compiled', compiled)
    return calls


def train(make_runner, cfg, name='run', hook=HOOK, **options):
    cfg = cfg.copy()
    if hook:
        cfg.default_hooks.student_runtime = hook
    cfg.update(options)
    cfg.default_hooks.logger.interval = 1
    runner = make_runner(cfg, name)
    runner.train()
    logs = Path(runner.work_dir).glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return runner, [line['loss'] for line in lines if 'loss' in line]


def weights(runner, name):
    path = Path(runner.work_dir) / name
    return torch.load(path, weights_only=False)['state_dict']


def test_whole_batches_of_training_are_compiled_and_nothing_else(
    tmp_path, make_runner, counted
):
    cfg = distill_config(tmp_path, images=72, epochs=2)  # 32, 32 and 8
    runner, _ = train(make_runner, cfg)
    assert counted == [(True, 32)] * 4
    assert runner.model.student.backbone._compiled_call_impl is None


def test_of_views_the_images_are_counted(tmp_path, make_runner, counted):
    """A batch of 32 images is one of 64 to the net; that of 8 is not compiled."""
    cfg = distill_config(tmp_path, 'mlkd/mlkd_r20_r8_digits.py', images=72)
    train(make_runner, cfg)
    assert counted == [(True, 64)] * 4


def test_a_run_resumed_at_a_small_batch_compiles_whole_ones(
    tmp_path, make_runner, counted
):
    cfg = distill_config(tmp_path, images=72, epochs=1)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2, max_keep_ckpts=9)
    runner, _ = train(make_runner, cfg, hook=None)
    cfg.train_cfg.max_epochs = 2
    checkpoint = str(Path(runner.work_dir) / 'iter_2.pth')
    train(make_runner, cfg, 'resumed', resume=True, load_from=checkpoint)
    assert counted == [(True, 8), (True, 32), (True, 32)]


def assert_compiled_training_is_plain(name, options, tmp_path, make_runner):
    cfg = digits_config(
        name,
        epochs=1,
        model__teacher_ckpt=str(save_teacher(tmp_path / 'teacher.pth')),
        optim_wrapper__optimizer__lr=0.001,
    )
    plain, losses = train(make_runner, cfg, 'plain', hook=None)
    fast, fast_losses = train(make_runner, cfg, 'fast', dict(HOOK, **options))
    assert len(losses) == 3
    assert fast_losses == pytest.approx(losses, rel=1e-3)
    for file in ('epoch_1.pth', 'student.pth'):
        expected, found = weights(plain, file), weights(fast, file)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-3, rtol=1e-2)


def test_compiled_training_is_the_plain_one(tmp_path, make_runner):
    name = 'cakd/ablations/digits/digits_logit-single_activation.py'
    options = dict(connectors=True)
    assert_compiled_training_is_plain(name, options, tmp_path, make_runner)


@pytest.mark.usefixtures('traced_only')
def test_traced_training_with_features_is_the_plain_one(tmp_path, make_runner):
    name = 'ofd/ofd_r20_r8_digits.py'
    assert_compiled_training_is_plain(name, {}, tmp_path, make_runner)


def test_memory_format(tmp_path, make_runner, counted):
    cfg = distill_config(tmp_path, epochs=1, **SMALL)
    for channels_last in (True, False):
        hook = dict(HOOK, channels_last=channels_last, compile=channels_last)
        counted.clear()
        runner, _ = train(make_runner, cfg, str(channels_last), hook)
        assert bool(counted) is channels_last  # nothing is compiled without `compile`
        weight = runner.model.student.backbone.stage1[0].conv1.weight
        is_last = weight.is_contiguous(memory_format=torch.channels_last)
        assert is_last == channels_last
        assert runner.model.data_preprocessor.channels_last == channels_last
        teacher = runner.model.teacher.backbone.stage1[0].conv1.weight
        assert teacher.is_contiguous()


def test_all_settings_may_change_between_the_parts_of_a_run(
    tmp_path, make_runner, counted
):
    """Teacher, data and precision too; the checkpoint knows of none of them."""
    cfg = distill_config(tmp_path, epochs=1, **SMALL)
    first, _ = train(make_runner, cfg, hook=None)
    begun = weights(first, 'epoch_1.pth')
    cfg.train_cfg.update(max_epochs=2, resident=True)
    cfg.val_cfg = dict(type='ResidentValLoop')
    cfg.model.teacher_runtime = dict(compile=False)
    cfg.optim_wrapper.type = 'BF16OptimWrapper'
    second, losses = train(make_runner, cfg, resume=True)
    assert (second.epoch, second.iter) == (2, 6)
    assert all(loss < 100 for loss in losses)
    ended = weights(second, 'epoch_2.pth')
    assert ended.keys() == begun.keys()
    assert all(ended[name].dtype == value.dtype for name, value in begun.items())
    cfg = distill_config(tmp_path, epochs=3, **SMALL)
    third, _ = train(make_runner, cfg, hook=None, resume=True)
    assert (third.epoch, third.iter) == (3, 9)


def test_a_plain_classifier_has_one_too(make_runner, counted):
    cfg = digits_config('vanilla/resnet8_digits.py', epochs=1)
    _, losses = train(make_runner, cfg, 'plain', hook=None)
    _, found = train(make_runner, cfg, 'fast')
    assert counted == [(True, 32)] * 3
    assert found == pytest.approx(losses, rel=0.05)


def test_connectors_are_compiled_if_asked(tmp_path, make_runner, counted):
    cfg = digits_config(
        'reviewkd/reviewkd_r20_r8_digits.py',
        epochs=1,
        model__teacher_ckpt=str(save_teacher(tmp_path / 'teacher.pth')),
    )
    for asked in (False, True):
        counted.clear()
        hook = dict(HOOK, connectors=asked)
        runner, losses = train(make_runner, cfg, f'asked-{asked}', hook)
        connectors = list(runner.model.distiller.connectors.values())
        assert len(connectors) == 1
        assert len(counted) == (1 + asked) * len(losses)
        assert connectors[0]._compiled_call_impl is None


def test_connectors_need_compilation():
    with pytest.raises(ValueError, match=r'student_runtime\.connectors` = True'):
        student_runtime_hook.StudentRuntimeHook(compile=False, connectors=True)


def test_cuda_graphs(tmp_path, make_runner, counted):
    cfg = distill_config(tmp_path, epochs=1, **SMALL)
    train(make_runner, cfg)
    assert counted.options == {}
    train(make_runner, cfg, hook=dict(HOOK, cuda_graphs=True))
    assert counted.options == dict(mode='reduce-overhead')
    cfg.optim_wrapper.accumulative_counts = 2
    with pytest.raises(ValueError, match='cuda_graphs.*accumulative_counts=2'):
        train(make_runner, cfg, hook=dict(HOOK, cuda_graphs=True))


def test_mmengine_must_not_compile_as_well(tmp_path, make_runner, counted):
    cfg = distill_config(tmp_path, epochs=1, **SMALL)
    runner = make_runner(cfg)
    runner.cfg['compile'] = True
    hook = student_runtime_hook.StudentRuntimeHook()
    with pytest.raises(ValueError, match='`compile` = True.*student_runtime.compile'):
        hook.before_train(runner)
