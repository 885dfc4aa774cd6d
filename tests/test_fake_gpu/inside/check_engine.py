"""Hooks, optimizer wrappers and the fast teacher on a GPU: what they wait for."""

import math
import uuid
from functools import partial
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from fake_gpu import DEVICE, GPU, NAME, fake_gpu
from known_nets import NETS
from mmengine.device import utils as mmengine_device
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.runner import Runner
from mmengine.runner import amp as mmengine_amp
from mmrazor.models.task_modules import RecorderManager
from tiny import build, digits_config, save_teacher
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.testing import assert_close

from cakd_mm.engine.hooks import DeferredInfoHook, FiniteLossHook, NonFiniteError
from cakd_mm.engine.optimizers import BF16OptimWrapper
from cakd_mm.models import widened
from cakd_mm.models.algorithms.teacher_classes import choose_classes
from cakd_mm.models.algorithms.teacher_images import ImageMap, Normalisation
from cakd_mm.models.distillers.head_trial import _repeatable
from cakd_mm.models.distillers.rehearsal import rehearsed
from cakd_mm.models.runtime import TeacherRuntime, teacher_runtime
from cakd_mm.utils.random_states import random_states_kept

LOGGED = 'cakd/ablations/digits/digits_logit-single_activation.py'
# Kernels of a step; what they log has an image's divergences, and scalars of r.
# The second counts the scores and the pooled features of both nets.
LAUNCHES = dict(DeferredInfoHook=1, FiniteLossHook=5, DistillTermsHook=4)


class Listed(Hook):
    """Lists waits and launches of each step, and launches by the class of hooks."""

    priority = 'LOWEST'

    def __init__(self, runner, ledger):
        self.ledger, self.waits, self.launches = ledger, [], {}
        for hook in runner.hooks:
            hook.after_train_iter = partial(self.count, hook.after_train_iter, hook)

    def count(self, run, hook, *args, **kwargs):
        before = len(self.ledger.launches)
        run(*args, **kwargs)
        counts = self.launches.setdefault(type(hook).__name__, [])
        counts.append(len(self.ledger.launches) - before)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.ledger.waits.clear()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.waits.append(list(self.ledger.waits))


def start(folder, name, interval, **options):
    """Build a run of one epoch of five steps, with all hooks that are shipped."""
    cfg = digits_config(
        name,
        images=5 * 32,
        epochs=1,
        model__teacher_ckpt=str(save_teacher(folder / 'teacher.pth')),
        default_hooks__logger__interval=interval,
        default_hooks__finite__interval=interval,
        work_dir=str(folder / 'run'),
        launcher='none',
        experiment_name=uuid.uuid4().hex,
        **options,
    )
    for part in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg.pop(part)
    for part in ('test_dataloader', 'test_cfg', 'test_evaluator'):
        cfg.pop(part)
    return Runner.from_cfg(cfg)


def listed_run(folder, name, interval, **options):
    with fake_gpu() as gpu, gpu.listening() as ledger:
        runner = start(folder, name, interval, **options)
        seen = Listed(runner, ledger)
        runner.register_hook(seen)
        runner.train()
    return runner, seen


def test_hooks_wait_at_a_line_alone(tmp_path):
    _, seen = listed_run(tmp_path, LOGGED, interval=4)
    for step in (1, 2, 4):  # The first step has checks of its own.
        assert seen.waits[step] == []
        for name, count in LAUNCHES.items():
            assert seen.launches[name][step] == count, name
    places = [wait.split('hooks/')[1].split('.py')[0] for wait in seen.waits[3]]
    assert places == ['deferred_info_hook', 'finite_loss_hook', 'distill_terms_hook']


def scalars(runner):
    return {
        name: history.data[0]
        for name, history in runner.message_hub.log_scalars.items()
        if name.startswith('train/') and 'time' not in name
    }


def test_what_is_logged_is_what_the_host_logs(tmp_path):
    """Beside all that may read in each step, which none does."""
    options = dict(
        optim_wrapper__clip_grad=dict(max_norm=0.1),
        optim_wrapper__accumulative_counts=2,
        default_hooks__warmup=dict(type='DistillWarmupHook', epochs=2),
        custom_hooks=[
            dict(type='StudentEMAHook', ema_type='MomentumAnnealingEMA', gamma=10)
        ],
        param_scheduler=[
            dict(type='LinearLR', by_epoch=False, start_factor=0.5, end=3),
            dict(type='CosineAnnealingMomentum', by_epoch=False, T_max=9),
        ],
    )
    name = 'cakd/demo_digits.py'
    # The device draws first weights of its own.
    student = build(digits_config(name).model.architecture)
    student.init_weights()
    torch.save(student.state_dict(), tmp_path / 'student.pth')
    options['model__student_ckpt'] = str(tmp_path / 'student.pth')
    (tmp_path / 'host').mkdir()
    runner, seen = listed_run(tmp_path, name, interval=5, **options)
    assert [bool(waits) for waits in seen.waits[1:]] == [False, False, False, True]
    with mock.patch.object(mmengine_device, 'DEVICE', 'cpu'):
        plain = start(tmp_path / 'host', name, interval=5, **options)
        plain.train()
    found, wanted = scalars(runner), scalars(plain)
    assert found.keys() == wanted.keys()
    assert len(found['train/grad_norm']) == 3  # the last step of an epoch is whole
    for key, values in wanted.items():
        assert_close(list(found[key]), list(values), rtol=1e-4, atol=1e-6)


def test_numbers_of_the_host_beside_losses_are_no_wait():
    hook = DeferredInfoHook('deferred')
    hook._deferred = True
    with fake_gpu() as gpu:
        outputs = dict(accuracy=0.5, loss=torch.ones((), device=DEVICE))
        runner = SimpleNamespace(hooks=[])
        with gpu.listening() as ledger:
            hook.after_train_iter(runner, 0, outputs=outputs)
        [(names, values)] = hook._steps
        assert (names, values.tolist()) == (['accuracy', 'loss'], [0.5, 1])
    assert ledger.waits == []


@pytest.mark.parametrize('is_fused', [False, True])
def test_loss_scaling_waits_unless_the_optimizer_is_fused(is_fused):
    scaler = partial(torch.amp.GradScaler, NAME)
    with (
        fake_gpu() as gpu,
        mock.patch.multiple(
            amp_optimizer_wrapper, is_cuda_available=lambda: True, GradScaler=scaler
        ),
        mock.patch.object(mmengine_amp, 'autocast', partial(torch.autocast, NAME)),
    ):
        net = nn.Linear(4, 2).to(DEVICE)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, fused=is_fused)
        wrapper = AmpOptimWrapper(optimizer=optimizer, dtype='float16')
        for _ in range(2):
            with gpu.listening() as ledger, wrapper.optim_context(net):
                images = torch.ones(3, 4, device=DEVICE)
                wrapper.update_params(net(images).float().mean())
    waits = [wait.split(',')[0] for wait in ledger.waits]
    assert waits == [] if is_fused else waits == ['aten._local_scalar_dense']


def test_bf16_waits_for_nothing():
    with fake_gpu() as gpu:
        net = nn.Linear(4, 2).to(DEVICE)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        wrapper = BF16OptimWrapper(optimizer=optimizer)
        with gpu.listening() as ledger, wrapper.optim_context(net):
            scores = net(torch.ones(3, 4, device=DEVICE))
            wrapper.update_params(scores.float().mean())
    assert ledger.waits == []
    assert (scores.dtype, net.weight.dtype) == (torch.bfloat16, torch.float32)


def test_weights_are_checked_with_one_wait():
    hook = FiniteLossHook()
    runner = SimpleNamespace(
        optim_wrapper=SimpleNamespace(get_lr=dict), work_dir='none', cfg={}
    )
    with fake_gpu() as gpu:
        weights = {f'w{i}': torch.ones(3, device=DEVICE) for i in range(5)}
        with gpu.listening() as ledger:
            hook._check_weights(runner, weights)
        assert len(ledger.waits) == 1
        weights['w3'][1] = math.inf
        with (
            mock.patch('cakd_mm.engine.hooks.finite_loss_hook.lower_the_rate', str),
            pytest.raises(NonFiniteError, match='w3 is not finite'),
        ):
            hook._check_weights(runner, weights)


def test_a_bad_step_is_found_with_its_scores(tmp_path):
    with fake_gpu():
        runner = start(tmp_path, 'cakd/demo_digits.py', interval=4)
        loss = runner.model.distiller.distill_losses['loss_cakd']
        calls = []

        def spoil(module, inputs, output):
            calls.append(1)
            return output * (math.nan if len(calls) == 2 else 1)

        loss.register_forward_hook(spoil)
        with pytest.raises(NonFiniteError) as caught:
            runner.train()
    text = str(caught.value)
    assert 'step 2 (epoch 1): loss = nan, distill.loss_cakd = nan. Scores: stu' in text
    assert runner.iter == 3  # the line


class Draws(nn.Module):
    """Draws a number of the device, and leaves its input as it is."""

    def forward(self, inputs):
        return tuple(x + 0 * torch.rand_like(x) for x in inputs)


def drawing_net():
    net = NETS['resnet8']().eval()
    net.neck = nn.Sequential(net.neck, Draws())
    return net.to(DEVICE)


def recorders_of(net):
    manager = RecorderManager(dict(logits=dict(type='ModuleOutputs', source='head')))
    manager.initialize(net)
    return manager


def states():
    return GPU.random_state, torch.get_rng_state()


def test_checks_leave_the_random_numbers_of_the_device_alone():
    with fake_gpu():
        net, images = drawing_net(), torch.ones(2, 3, 16, 16, device=DEVICE)
        manager = recorders_of(net)
        before = states()
        with rehearsed(net, manager, lambda: net(images)):
            pass
        with _repeatable([images]):
            net(images)
        with random_states_kept(net.parameters()):
            net(images)
        assert_close(states(), before)
        net(images)
        once = states()
        torch.fakegpu.set_rng_state(before[0])
        runtime = TeacherRuntime(compile=False)
        with manager:
            runtime(net, images, manager.recorders.values())
    # The first step runs the teacher twice to compare.
    assert_close(states(), once)
    assert not torch.equal(once[0], before[0])


def test_a_choice_of_classes_leaves_the_random_numbers_of_the_device_alone():
    with fake_gpu():
        net = NETS['resnet8']()
        torch.fakegpu.manual_seed(3)
        before = states()
        choose_classes(net, [0, 1], None, 'model.teacher_classes')
        assert_close(states(), before)


def test_a_device_without_random_states_is_left_alone(monkeypatch):
    with fake_gpu():
        images = torch.ones(2, device=DEVICE)
        monkeypatch.delattr(type(torch.fakegpu), 'get_rng_state')
        with random_states_kept([images]):
            torch.rand(1)


def with_folded_norms(net):
    """Return a net whose first BatchNorm is folded, as compiling does it."""
    backbone = net.net.backbone
    backbone.conv1 = fuse_conv_bn_eval(backbone.conv1, backbone.bn1)
    backbone.bn1 = nn.Identity()
    return net


def test_the_fast_teacher_is_compared_without_tf32():
    def compiled(function, *_, **options):
        return with_folded_norms(function)

    torch.manual_seed(0)
    images = torch.randn(4, 3, 16, 16)
    with (
        fake_gpu(rounds_to_tf32=True),
        mock.patch.object(teacher_runtime, 'compiled', compiled),
        mock.patch.dict(teacher_runtime.TOLERANCE, {torch.float32: 1e-5}),
    ):
        net = NETS['resnet8']().eval().to(DEVICE)
        net.backbone.bn1.weight.data.mul_(1.3)
        manager = recorders_of(net)
        with manager:
            runtime = TeacherRuntime()
            runtime(net, images.to(DEVICE), manager.recorders.values())
        assert torch.backends.cudnn.allow_tf32
        scores = [manager.get_recorder('logits').get_record_data()]
        scores.append(net(images.to(DEVICE), mode='tensor'))
    fast, plain = (x.host for x in scores)
    assert (fast - plain).abs().max() > 1e-5 * plain.abs().max()  # TF32 is on again


def test_the_fast_teacher_follows_the_autocast_of_the_device():
    with fake_gpu(), torch.autocast(NAME, torch.bfloat16):
        net, images = drawing_net(), torch.ones(2, 3, 16, 16, device=DEVICE)
        manager = recorders_of(net)
        with manager:
            TeacherRuntime(compile=False)(net, images, manager.recorders.values())
        (scores,) = manager.get_recorder('logits').data_buffer
    rounded = scores.host.bfloat16().float()
    assert torch.equal(scores.host.float(), rounded)


def test_a_map_of_images_goes_where_there_is_no_float64(monkeypatch):
    made = Normalisation(mean=(1.0, 2.0, 3.0), std=(3.0, 4.0, 5.0), to_rgb=True)
    wanted = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.7, 0.7, 0.7), to_rgb=True)
    monkeypatch.setattr(widened, 'WITHOUT_FLOAT64', {NAME})
    images = torch.rand(2, 3, 4, 4)
    with fake_gpu(has_float64=False):
        mapped = ImageMap(made, wanted).to(DEVICE)(images.to(DEVICE))
    with mock.patch.object(mmengine_device, 'DEVICE', 'cpu'):
        assert torch.equal(mapped.host, ImageMap(made, wanted)(images))
