"""What only a GPU can show; ``make test-gpu`` runs it, elsewhere it is skipped."""

import copy

import pytest
import torch
from known_nets import NETS
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmrazor.models.task_modules import RecorderManager
from mmrazor.registry import MODELS
from tiny import digits_config, distill_config, save_teacher

from cakd_mm.datasets import Digits, ResidentDataset
from cakd_mm.datasets.batch_ops import normalized
from cakd_mm.engine.hooks import NonFiniteError
from cakd_mm.models.losses import CAKDFeatureLoss, CAKDLogitLoss
from cakd_mm.models.runtime import TeacherRuntime

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='needs a CUDA GPU (make test-gpu)'
)


@pytest.fixture
def no_sync():
    """Make every host synchronisation within the block an error."""

    class Forbidden:
        def __enter__(self):
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode('error')

        def __exit__(self, *_):
            torch.cuda.set_sync_debug_mode('default')

    return Forbidden()


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
    there = student.cuda().requires_grad_()
    arguments = (there, teacher.cuda(), labels.cuda())
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
    here, there = (ResidentDataset(digits, 1, device) for device in ('cpu', 'cuda'))
    indices = list(range(0, 64, 3))
    expected, found = (data.__getitems__(indices) for data in (here, there))
    assert found['inputs'].is_cuda
    assert not found['data_samples'].gt_label.is_cuda  # hooks look at it
    assert torch.equal(found['inputs'].cpu(), expected['inputs'])
    mean, std = torch.tensor([1.0, 2, 3]), torch.tensor([60.1, 61, 62])
    numbers = mean.cuda(), std.cuda()
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
        assert loader.dataset.images.is_cuda


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
    twin = copy.deepcopy(loss).cuda()
    here = student.clone().requires_grad_()
    there = student.cuda().requires_grad_()
    arguments = (teacher.cuda(), labels.cuda())
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


@pytest.mark.parametrize('wrapper', ['OptimWrapper', 'AmpOptimWrapper'])
def test_logit_and_features_train(tmp_path, make_runner, wrapper):
    cfg = digits_config(
        'cakd/ablations/digits/digits_logit-double_network.py',
        epochs=1,
        optim_wrapper__type=wrapper,
        model__teacher_ckpt=str(save_teacher(tmp_path / 'teacher.pth')),
    )
    make_runner(cfg).train()
    assert (tmp_path / 'run' / 'student.pth').exists()


def test_a_step_of_the_algorithm_does_not_sync(no_sync, tmp_path):
    cfg = distill_config(tmp_path)
    model = dict(cfg.model, data_preprocessor=cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(copy.deepcopy(model)).cuda().train()
    images = torch.randn(8, 3, 16, 16, device='cuda')
    labels = torch.arange(8, device='cuda')
    model.distiller.set_deliveries_override(False)
    with no_sync:
        with model.distiller.teacher_recorders, torch.no_grad():
            model.teacher(images, mode='tensor')
        with model.distiller.student_recorders:
            scores = model.student(images, mode='tensor')
        loss = model.distiller.distill_losses['loss_cakd']
        teacher = model.distiller.get_record('logits', False)
        loss(scores, teacher, labels).backward()
        model.recorded_ranges()


@pytest.mark.parametrize('wrapper', ['OptimWrapper', 'AmpOptimWrapper'])
def test_a_run_learns_and_leaves_a_plain_student(tmp_path, make_runner, wrapper):
    cfg = distill_config(tmp_path, epochs=1, optim_wrapper__type=wrapper)
    runner = make_runner(cfg)
    runner.train()
    assert (tmp_path / 'run' / 'student.pth').exists()


def test_a_nan_stops_the_run_at_the_log(tmp_path, make_runner):
    cfg = distill_config(tmp_path, images=256, epochs=1)
    cfg.default_hooks.finite.interval = 4
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
    net = NETS['resnet8']().eval().cuda()
    recorders = RecorderManager(
        {
            name: dict(type='Tap', source=name)
            for name in ('stage1', 'stage2_pre', 'pooled')
        }
    )
    recorders.initialize(net)
    runtime = TeacherRuntime(dtype=dtype)
    tolerance = 1e-4 if dtype == 'float32' else 0.05
    for count in (8, 8, 8, 5):  # replayed twice, and a batch that is not compiled
        images = torch.randn(count, 3, 32, 32, device='cuda')
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


@pytest.mark.parametrize('cuda_graphs', [False, True])
def test_a_fast_step_does_not_wait_for_the_gpu(
    no_sync, tmp_path, make_runner, cuda_graphs
):
    """Teacher and student compiled, resident data, losses read when they are logged."""
    cfg = distill_config(tmp_path, epochs=3)
    cfg.train_cfg.resident = True
    cfg.model.teacher_runtime = dict()
    cfg.default_hooks.student_runtime = dict(
        type='StudentRuntimeHook', cuda_graphs=cuda_graphs
    )
    cfg.default_hooks.logger.interval = 100
    runner = make_runner(cfg)

    class Watch(Hook):
        def after_train_epoch(self, runner):
            if runner.epoch != 1:  # compiled by now
                return
            batch = next(iter(runner.train_dataloader))
            for hook in runner.hooks:
                hook.before_train_iter(runner, 0, batch)
            with no_sync:
                outputs = runner.model.train_step(batch, runner.optim_wrapper)
                for hook in runner.hooks:
                    hook.after_train_iter(runner, 0, batch, outputs)
            seen.append(outputs)

    seen = []
    runner.register_hook(Watch())
    runner.train()
    assert len(seen) == 1
    assert runner.message_hub.get_scalar('train/loss').current() < 100
