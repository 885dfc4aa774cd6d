"""What only a GPU can show: its values, and that no training step waits for it.

``make test-gpu`` runs this on a card. In ``make test`` the same code runs on the CPU,
which has nothing to wait for and compiles nothing here, so that a card never meets a
line that has not been run.
"""

import copy
import importlib
import os
import socket
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from known_nets import NETS
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmrazor.models.task_modules import RecorderManager
from mmrazor.registry import MODELS
from tiny import digits_config, distill_config, save_teacher

from cakd_mm.datasets import Digits, ResidentDataset
from cakd_mm.datasets.batch_ops import normalized
from cakd_mm.engine.hooks import NonFiniteError
from cakd_mm.engine.launch import adapt_to_device
from cakd_mm.models.losses import CAKDFeatureLoss, CAKDLogitLoss
from cakd_mm.models.runtime import TeacherRuntime
from cakd_mm.own_images.methods import classifier_methods

CARDS = torch.cuda.device_count()
DEVICE = 'cuda' if CARDS else 'cpu'
card = pytest.mark.skipif(not CARDS, reason='needs a CUDA GPU (make test-gpu)')
two_cards = pytest.mark.skipif(CARDS < 2, reason='needs two CUDA GPUs (make test-gpu)')
# Beside the lines of code, only a card shows anything here.
SHORT = (
    {}
    if CARDS
    else dict(
        images=12,
        train_dataloader__batch_size=4,
        val_dataloader__dataset__indices=8,
        test_dataloader__dataset__indices=8,
    )
)
SIZE, COUNT = (32, 8) if CARDS else (8, 2)
# A card's tests compile; on a CPU that would take minutes, and is tested elsewhere.
COMPILE = bool(CARDS)
# The benchmark ``exchange`` and the fake GPU's checks take a step of each on a CPU.
STEPPED = classifier_methods() if CARDS else classifier_methods()[:3]
DISTILLED = (
    'cakd/demo_digits.py',
    'cakd/ablations/digits/digits_logit-double_network.py',
)
REVIEWKD = 'reviewkd/reviewkd_r20_r8_digits.py'


@pytest.fixture
def no_sync():
    """Make every host synchronisation within the block an error; nothing on a CPU."""

    class Forbidden:
        def __enter__(self):
            if CARDS:
                torch.cuda.synchronize()
                torch.cuda.set_sync_debug_mode('error')

        def __exit__(self, *_):
            if CARDS:
                torch.cuda.set_sync_debug_mode('default')

    return Forbidden()


@pytest.fixture
def repeatable():
    """Let a run be deterministic, and the next test as it was."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    cudnn.deterministic, cudnn.benchmark = before


@pytest.fixture
def methods(benchmarks):
    """Return the module with an algorithm of every method."""
    return importlib.import_module('methods')


def logits(n=64, c=100, scale=10.0):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(n, c, generator=generator) * scale
    teacher = torch.randn(n, c, generator=generator) * scale
    return student, teacher, torch.randint(0, c, (n,), generator=generator)


@pytest.mark.parametrize('multi_label', [False, True])
def test_the_loss_equals_its_cpu_twin_without_a_sync(no_sync, multi_label):
    student, teacher, labels = logits()
    if multi_label:
        labels = torch.nn.functional.one_hot(labels, 100)
    loss = CAKDLogitLoss(multi_label=multi_label)
    here = student.clone().requires_grad_()
    expected = loss(here, teacher, labels)
    expected.backward()
    there = student.to(DEVICE).clone().requires_grad_()
    arguments = (there, teacher.to(DEVICE), labels.to(DEVICE))
    with no_sync:
        value = loss(*arguments)
        value.backward()
    torch.testing.assert_close(value.cpu(), expected, rtol=2e-5, atol=0)
    torch.testing.assert_close(there.grad.cpu(), here.grad, rtol=1e-4, atol=1e-6)


def test_resident_batches_equal_those_of_the_cpu(no_sync):
    steps = [
        dict(type='RandomCrop', crop_size=8, padding=(1, 2, 3, 4), pad_val=(9, 8, 7)),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]
    digits = Digits(indices=64, pipeline=steps)
    here, there = (ResidentDataset(digits, 1, device) for device in ('cpu', DEVICE))
    indices = list(range(0, 64, 3))
    there.__getitems__(indices[::-1])
    with no_sync:
        found = there.__getitems__(indices)
    expected = here.__getitems__(indices)
    labels = (data['data_samples'].gt_label.cpu() for data in (found, expected))
    assert found['inputs'].device.type == DEVICE
    assert torch.equal(found['inputs'].cpu(), expected['inputs'])
    assert torch.equal(*labels)
    mean, std = torch.tensor([1.0, 2, 3]), torch.tensor([60.1, 61, 62])
    numbers = mean.to(DEVICE), std.to(DEVICE)
    with no_sync:
        images = normalized(found['inputs'], *numbers, to_rgb=True)
    assert torch.equal(images.cpu(), normalized(expected['inputs'], mean, std, True))


def test_resident_images_go_where_the_model_is(make_runner):
    cfg = digits_config('vanilla/resnet8_digits.py', epochs=1)
    cfg.train_cfg.resident = True
    cfg.val_cfg = dict(type='ResidentValLoop')
    runner = make_runner(cfg)
    runner.train()
    for loader in (runner.train_dataloader, runner.val_dataloader):
        assert loader.dataset.images.device.type == DEVICE


@card
@pytest.mark.parametrize('kind', ['CAKDLogitLoss', 'CAKDFeatureLoss'])
def test_the_compiled_loss_equals_its_eager_twin(no_sync, kind):
    student, teacher, labels = (x.cuda() for x in logits(64, 64, 1.0))
    results = []
    for compile in (True, False):
        loss = MODELS.build(dict(type=kind, compile=compile)).cuda()
        leaf = student.clone().requires_grad_()
        loss(leaf, teacher, labels).backward()  # compiles
        leaf.grad = None
        with no_sync:
            value = loss(leaf, teacher, labels)
            value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


@card
def test_the_compiled_loss_is_few_kernels_each_way():
    """One for the rows and one for their sum; one that hands the gradient on."""
    student, teacher, labels = (x.cuda() for x in logits())
    loss = CAKDLogitLoss(compile=True)
    leaf = student.requires_grad_()
    loss(leaf, teacher, labels).backward()  # compiles
    leaf.grad = None
    value = loss(leaf, teacher, labels)
    assert count_kernels(lambda: loss(leaf, teacher, labels)) <= 2
    one = torch.ones_like(value)
    assert count_kernels(lambda: value.backward(one)) <= 1


def count_kernels(run) -> int:
    activities = [torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize()
    kinds = [event.name for event in profile.events() if event.device_time]
    return len([name for name in kinds if not name.startswith('Mem')])


NETWORK = dict(type='ScoringNetwork', channels=64, num_classes=10)


@pytest.mark.parametrize('scorer', [dict(type='ActivationScorer'), NETWORK])
def test_the_feature_loss_equals_its_cpu_twin_without_a_sync(no_sync, scorer):
    student, teacher, labels = logits(64, 64, 1.0)
    teacher, labels = teacher.relu(), labels % 10
    loss = CAKDFeatureLoss(
        scorer=scorer, gamma='adaptive', standardize=True, channels=64
    )
    twin = copy.deepcopy(loss).to(DEVICE)
    here = student.clone().requires_grad_()
    there = student.to(DEVICE).clone().requires_grad_()
    arguments = (teacher.to(DEVICE), labels.to(DEVICE))
    for step in range(3):
        here.grad = there.grad = None
        expected = loss(here, teacher, labels)
        expected.backward()
        if step == 0:  # the first batch is looked at for negative values
            value = twin(there, *arguments)
            value.backward()
            continue
        with no_sync:
            value = twin(there, *arguments)
            value.backward()
    torch.testing.assert_close(value.cpu(), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(there.grad.cpu(), here.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('method', STEPPED)
def test_a_step_of_every_method_is_the_cpus_and_does_not_wait(methods, no_sync, method):
    """The second step, because the first one looks at what the nets give."""
    begun = methods.algorithm(method)
    begun.init_weights()
    logs = {}
    for device in {'cpu', DEVICE}:
        model = copy.deepcopy(begun).to(device).train()
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
        torch.manual_seed(0)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for index in range(2):
                batch = methods.batch(model, index)
                with no_sync if index else nullcontext():
                    losses = model.train_step(batch, wrapper)
        logs[device] = {name: value.cpu() for name, value in losses.items()}
    assert logs[DEVICE].keys() == logs['cpu'].keys()
    for name, value in logs['cpu'].items():
        assert value.isfinite().all()
        found = logs[DEVICE][name]
        torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize('config', DISTILLED)
@pytest.mark.parametrize('wrapper', ['OptimWrapper', 'AmpOptimWrapper'])
def test_a_run_learns_and_leaves_a_plain_student(
    tmp_path, make_runner, config, wrapper
):
    """With the fast teacher, which the second wrapper tells to compute in half."""
    cfg = distill_config(tmp_path, config, epochs=1, **SHORT)
    cfg.optim_wrapper.type = wrapper
    cfg.model.teacher_runtime = dict(compile=COMPILE)
    runner = make_runner(adapted(cfg))
    runner.train()
    assert runner.message_hub.get_scalar('train/loss').current() < 100
    assert (tmp_path / 'run' / 'student.pth').exists()


def test_a_nan_stops_the_run_at_the_log(tmp_path, make_runner):
    cfg = distill_config(tmp_path, images=256, epochs=1)
    cfg.default_hooks.finite.update(interval=4, mode='deferred')  # as on a GPU
    runner = make_runner(cfg)
    loss = runner.model.distiller.distill_losses['loss_cakd']
    loss.register_forward_hook(
        lambda module, inputs, output: (
            output * float('nan') if runner.iter == 1 else output
        )
    )
    with pytest.raises(NonFiniteError, match=r'step 2 .*distill\.loss_cakd = nan'):
        runner.train()
    assert runner.iter == 3  # the first reading after the bad step
    assert not list((tmp_path / 'run').glob('*.pth'))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_fast_teacher_is_the_plain_one_and_its_graph_is_told(dtype):
    """Cards compute convolutions in TF32, so that both may differ by more than 1e-4."""
    net = NETS['resnet8x4']().eval().to(DEVICE)
    recorders = RecorderManager(
        {
            name: dict(type='Tap', source=name)
            for name in ('stage1', 'stage2_pre', 'pooled')
        }
    )
    recorders.initialize(net)
    runtime = TeacherRuntime(compile=COMPILE, dtype=dtype)
    tolerance = 3e-3 if dtype == 'float32' else 0.05
    # Replayed twice, and a batch that is not compiled.
    for count in (COUNT, COUNT, COUNT, COUNT - 1):
        images = torch.randn(count, 3, SIZE, SIZE, device=DEVICE)
        seen = []
        for run in (
            lambda images=images: net(images, mode='tensor'),
            lambda images=images: runtime(net, images, recorders.recorders.values()),
        ):
            with recorders, torch.no_grad():
                run()
            data = [r.get_record_data() for r in recorders.recorders.values()]
            seen.append([x[0].clone() if isinstance(x, tuple) else x for x in data])
        for plain, fast in zip(*seen, strict=True):
            worst = (plain - fast.float()).abs().max() / plain.abs().max()
            assert worst < tolerance


@card
@pytest.mark.parametrize('name', NETS)
def test_a_card_with_tf32_has_a_fast_teacher(name):
    """Its check raises nothing, for it compares with TF32 off."""
    net = NETS[name]().eval().to(DEVICE)
    recorders = RecorderManager(dict(head=dict(type='ModuleOutputs', source='head')))
    recorders.initialize(net)
    size = 64 if hasattr(net.backbone, 'maxpool') else 32
    images = torch.randn(8, 3, size, size, device=DEVICE)
    with recorders:
        TeacherRuntime(compile=False)(net, images, recorders.recorders.values())


# What a run has beside the nets: where batches come from, and what is fast.
RUNS = {
    'loader': dict(),
    'resident': dict(resident=True),
    'resident, bf16': dict(resident=True, amp=True),
    'fast': dict(resident=True, fast=True),
    'fast, bf16': dict(resident=True, fast=True, amp=True),
    'fast, CUDA graphs': dict(resident=True, fast=True, cuda_graphs=True),
}


@pytest.mark.parametrize('name', RUNS)
def test_a_step_of_the_runner_does_not_wait_for_the_gpu(
    no_sync, tmp_path, make_runner, name
):
    """With all hooks of the step; the losses are read when they are logged."""
    cfg = run_config(tmp_path, **RUNS[name])
    runner = make_runner(adapted(cfg))

    class Watch(Hook):
        def after_train_epoch(self, runner):
            if runner.epoch != 1:  # compiled by now
                return
            batch = next(iter(runner.train_dataloader))
            with no_sync:
                for hook in runner.hooks:
                    hook.before_train_iter(runner, 0, batch)
                outputs = runner.model.train_step(batch, runner.optim_wrapper)
                for hook in runner.hooks:
                    hook.after_train_iter(runner, 0, batch, outputs)
            seen.append(outputs)

    seen = []
    runner.register_hook(Watch())
    runner.train()
    assert len(seen) == 1
    assert runner.message_hub.get_scalar('train/loss').current() < 100


def run_config(tmp_path, resident=False, fast=False, amp=False, cuda_graphs=False):
    """Return the demo, three epochs that log nothing within."""
    cfg = distill_config(tmp_path, epochs=3, **SHORT)
    cfg.default_hooks.logger.interval = 100
    cfg.train_cfg.resident = resident
    cfg.train_dataloader.pin_memory = True
    if fast:
        cfg.model.teacher_runtime = dict(compile=COMPILE)
        cfg.default_hooks.student_runtime = dict(
            type='StudentRuntimeHook', compile=COMPILE, cuda_graphs=cuda_graphs
        )
    if amp:
        cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
    return cfg


def adapted(cfg):
    """Return the config as the tools do, with what this device can do."""
    cfg.launcher = 'none'
    adapt_to_device(cfg)
    return cfg


@pytest.mark.usefixtures('repeatable')
@pytest.mark.parametrize('config', ['cakd/demo_digits.py', REVIEWKD])
def test_a_deterministic_run_trains_and_repeats_itself(tmp_path, make_runner, config):
    ends = []
    for name in ('first', 'second'):
        cfg = distill_config(tmp_path, config, epochs=1, **SHORT)
        cfg.randomness = dict(seed=0, deterministic=True)
        make_runner(adapted(cfg), name).train()
        state = torch.load(tmp_path / name / 'student.pth', weights_only=False)
        ends.append(state['state_dict'])
    first, second = ends
    assert all(torch.equal(first[name], second[name]) for name in first)


@two_cards
def test_two_cards_train_one_student(root, tmp_path):
    """Over NCCL, from the command line."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    teacher = save_teacher(tmp_path / 'teacher.pth')
    options = f'model.teacher_ckpt={teacher} train_cfg.max_epochs=1'.split()
    words = ['configs/cakd/demo_digits.py', '2', '--work-dir', str(tmp_path / 'run')]
    done = subprocess.run(
        ['tools/dist_train.sh', *words, '--cfg-options', *options],
        cwd=root,
        env={**os.environ, 'PYTHON': sys.executable, 'PORT': str(port)},
        capture_output=True,
        encoding='utf-8',
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / 'run' / 'student.pth').exists()
