"""Whole runs that distil features: who learns from what, checkpoints, ranks."""

import copy
import json
import math
import uuid
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import Runner
from mmpretrain import get_model
from mmpretrain.structures import DataSample
from ranks import two_ranks
from tiny import algorithm, build, digits_config, save_teacher

from cakd_mm.models.distillers import LossRatioBalancer
from cakd_mm.models.losses import CAKDFeatureLoss
from cakd_mm.models.statistics import RunningMean, RunningNorm

SINGLE = 'cakd/ablations/digits/digits_logit-single_network.py'
DOUBLE = 'cakd/ablations/digits/digits_logit-double_network.py'
ACTIVATION = 'cakd/ablations/digits/digits_logit-single_activation.py'
SCORER = 'distiller.distill_losses.loss_feature.scorer.'
CONNECTOR = 'distiller.connectors.feature.'
SCORER_LOSS = 'distill.loss_feature.scorer_loss'
ALL_LOSSES = {'student.loss', 'distill.loss_cakd', 'distill.loss_feature'}


@pytest.fixture(autouse=True, scope='module')
def _quick_runs():
    """Leave out most of a tiny run: laying out the text of its config."""
    with pytest.MonkeyPatch.context() as patch:
        for place in ('yapf.yapflib.yapf_api', 'mmengine.config.config'):
            name = f'{place}.FormatCode'
            patch.setattr(name, lambda text, **_: (text, True), raising=False)
        yield


def config(folder, name=SINGLE, **options):
    teacher = save_teacher(folder / 'teacher.pth')
    return digits_config(name, model__teacher_ckpt=str(teacher), **options)


def batch(model, count=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 16, 16), generator=generator)
    samples = [DataSample().set_gt_label((i + seed) % 10) for i in range(count)]
    data = dict(inputs=images.to(torch.uint8), data_samples=samples)
    return model.data_preprocessor(data, True)


def load(path):
    return torch.load(path, map_location='cpu', weights_only=False)


def finish(cfg, work_dir, **options):
    """Train to the end."""
    torch.set_num_threads(1)
    cfg = copy.deepcopy(cfg)
    cfg.update(
        launcher='none',
        work_dir=str(work_dir),
        experiment_name=uuid.uuid4().hex,
        **options,
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def history(runner, name):
    return runner.message_hub.get_scalar(f'train/{name}').data[0].tolist()


def log_of(work_dir):
    [file] = Path(work_dir).glob('*/vis_data/scalars.json')
    entries = [json.loads(line) for line in file.open()]
    return [entry for entry in entries if 'loss' in entry]


# --- Who learns from what ------------------------------------------------------


def gradients(loss, model):
    """Name of every trained parameter to its gradient, None if it has none."""
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(
        loss, list(named.values()), retain_graph=True, allow_unused=True
    )
    return dict(zip(named, grads, strict=True))


def reached(grads):
    return {
        name for name, grad in grads.items() if grad is not None and grad.abs().max()
    }


def test_the_scorer_and_the_student_learn_apart(tmp_path):
    model = algorithm(config(tmp_path))
    losses = model(**batch(model), mode='loss')
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    groups = {
        prefix: {name for name in names if name.startswith(prefix)}
        for prefix in (SCORER, CONNECTOR, 'architecture.')
    }
    assert names == set().union(*groups.values())
    assert all(groups.values())

    from_scorer = gradients(losses.pop(SCORER_LOSS), model)
    assert reached(from_scorer) == groups[SCORER]
    rest = {name for name, grad in from_scorer.items() if grad is not None}
    assert rest == groups[SCORER]  # no gradient at all elsewhere, not even zeros

    assert losses.keys() == ALL_LOSSES
    from_others = gradients(sum(losses.values()), model)
    assert all(from_others[name] is None for name in groups[SCORER])
    assert reached(from_others) >= groups[CONNECTOR]
    assert reached(from_others) >= {
        name for name in groups['architecture.'] if 'conv' in name or 'fc' in name
    }

    from_feature = gradients(losses['distill.loss_feature'], model)
    found = {name for name, grad in from_feature.items() if grad is not None}
    assert groups[CONNECTOR] <= found
    assert 'architecture.backbone.conv1.weight' in reached(from_feature)
    assert not [name for name in found if 'head.fc' in name]

    sum(losses.values()).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.student.parameters())


# --- A run that has everything -------------------------------------------------


def everything(folder):
    """Network scorer, balancer, adaptive gamma, standardised, warmed up."""
    cfg = config(folder, default_hooks__logger__interval=1)
    loss = cfg.model.distiller.distill_losses.loss_feature
    loss.gamma = 'adaptive'
    assert loss.standardize
    assert loss.scorer.type == 'ScoringNetwork'
    assert cfg.model.distiller.balancer is not None
    cfg.model.distiller.balancer.limits = (1e-6, 1e6)
    cfg.default_hooks.warmup = dict(type='DistillWarmupHook', epochs=3)
    return cfg


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The run, its config and its folder."""
    folder = tmp_path_factory.mktemp('whole')
    cfg = everything(folder)
    return finish(cfg, folder / 'run'), cfg, folder / 'run'


def test_all_of_them_learn(whole):
    runner, _, folder = whole
    first, last = (load(folder / f'epoch_{i}.pth')['state_dict'] for i in (1, 2))
    for name in first:
        if name.startswith((SCORER, CONNECTOR)) and name.endswith(('weight', 'bias')):
            assert not torch.equal(first[name], last[name]), name
    groups = runner.optim_wrapper.optimizer.param_groups
    trained = {id(p) for group in groups for p in group['params']}
    assert {id(p) for p in runner.model.student.parameters()} <= trained


def test_a_checkpoint_holds_all_that_was_learned(whole):
    runner, _, folder = whole
    saved = load(folder / 'epoch_2.pth')['state_dict']
    extra = {name for name in saved if name.startswith('distiller.')}
    loss = 'distiller.distill_losses.loss_feature.'
    layers = ('gate.0.', 'gate.2.', 'classifier.')
    assert extra == {
        *(f'{CONNECTOR}linear.{kind}' for kind in ('weight', 'bias')),
        *(f'{SCORER}{layer}{kind}' for layer in layers for kind in ('weight', 'bias')),
        *(f'{SCORER}norm.{name}' for name in ('batches', 'mean', 'var')),
        *(f'{loss}norm.{name}' for name in ('batches', 'mean', 'var')),
        *(f'{loss}activation.{name}' for name in ('batches', 'value')),
        *(f'distiller.balancer.means.{name}' for name in ('batches', 'value')),
    }
    for name in extra:
        if name.endswith('batches'):
            assert saved[name].item() == 6, name
    assert saved['distiller.balancer.means.value'].shape == (2,)
    assert saved[f'{loss}norm.mean'].shape == (64,)


def test_the_adaptive_weight_is_beta_over_r(whole):
    runner, _, folder = whole
    entries = log_of(folder)
    assert len(entries) == 6
    for entry in entries:
        expected = 8.0 / entry['feature/r']
        assert entry['feature/gamma'] == pytest.approx(expected, rel=1e-5)
    strong, weak = runner.model.distiller.distill_losses.loss_feature.activation.value
    expected = (strong / weak).item()
    assert entries[-1]['feature/r'] == pytest.approx(expected, rel=1e-5)


def leaves(tree, path=''):
    """Flatten nested dicts and lists to ``{path: leaf}``."""
    if isinstance(tree, (dict, list, tuple)):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: v for n, x in items for k, v in leaves(x, f'{path}/{n}').items()}
    return {path: tree}


def state_of(runner):
    """Weights, optimizer and every logged value but the times."""
    scalars = runner.message_hub.log_scalars.items()
    state = dict(
        weights=runner.model.state_dict(),
        optimizer=runner.optim_wrapper.state_dict(),
        logged={
            name: scalar.data[0].tolist()
            for name, scalar in scalars
            if name.startswith('train/') and 'time' not in name
        },
    )
    return leaves(state)


def without_times(lines):
    return [{k: v for k, v in line.items() if 'time' not in k} for line in lines]


def test_resumed_equals_uninterrupted(whole, tmp_path):
    expected, cfg, folder = whole
    path = folder / 'epoch_1.pth'
    resumed = finish(cfg, tmp_path / 'run', load_from=str(path), resume=True)
    assert (resumed.epoch, resumed.iter) == (2, 6)
    first, second = state_of(expected), state_of(resumed)
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[name]), name
        else:
            assert value == second[name], name
    # The lines of the second epoch, kept_random and all, are the same too.
    lines = without_times(log_of(tmp_path / 'run'))
    assert len(lines) == 3
    assert lines == without_times(log_of(folder))[3:]


def test_the_extracted_student_is_plain(whole):
    runner, cfg, folder = whole
    weights = load(folder / 'student.pth')['state_dict']
    student = build({k: v for k, v in cfg.model.architecture.items() if k != '_scope_'})
    assert weights.keys() == student.state_dict().keys()
    student.load_state_dict(weights, strict=True)
    for name, value in runner.model.student.state_dict().items():
        assert torch.equal(weights[name], value), name
    text = (folder / 'student.py').read_text()
    for word in ('distill', 'teacher', 'connector', 'CAKD', 'mmrazor'):
        assert word not in text
    plain = get_model(
        Config.fromfile(folder / 'student.py'), pretrained=str(folder / 'student.pth')
    )
    images = batch(runner.model)['inputs']
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), runner.model.student.eval()(images))
    runner.model.student.train()


# --- The balance in training ---------------------------------------------------


def test_logged_values_are_near_the_ratio(tmp_path):
    ratio = 0.25
    cfg = config(
        tmp_path,
        ACTIVATION,
        images=160,
        default_hooks__logger__interval=1,
        model__distiller__balancer__ratio=ratio,
        model__distiller__balancer__limits=(1e-6, 1e6),
        # Values that go up and down by a quarter, not by the factor of an
        # untrained net that learns fast.
        optim_wrapper__optimizer__lr=1e-3,
    )
    runner = finish(cfg, tmp_path / 'run')
    feature, logit = (history(runner, f'distill.loss_{n}') for n in ('feature', 'cakd'))
    assert len(feature) == 10
    assert feature[0] / logit[0] == pytest.approx(ratio, rel=1e-5)
    assert sum(feature) / sum(logit) == pytest.approx(ratio, rel=0.1)
    for one, other, entry in zip(feature, logit, log_of(tmp_path / 'run'), strict=True):
        assert one / other == pytest.approx(ratio, rel=0.5)
        assert entry['feature/ratio'] == pytest.approx(one / other, rel=1e-4)
        assert entry['feature/grad_ratio'] > 0


# --- Other ways to train -------------------------------------------------------


def test_mixed_precision_and_accumulated_gradients(whole, tmp_path):
    _, cfg, plain = whole
    cfg = copy.deepcopy(cfg)
    cfg.optim_wrapper.update(type='BF16OptimWrapper', accumulative_counts=2)
    runner = finish(cfg, tmp_path)
    entries = log_of(tmp_path)
    assert len(entries) == 6
    for entry in entries:
        assert all(math.isfinite(v) for v in entry.values())
        assert {'feature/grad_ratio', 'feature/kept_random'} <= entry.keys()
    expected = log_of(plain)[0]
    # The first step has the same weights: gradients differ, or the rounding does.
    for name in ('student.loss', SCORER_LOSS, 'distill.loss_feature', 'feature/bcd'):
        assert entries[0][name] == pytest.approx(expected[name], rel=0.1), name
    first = load(tmp_path / 'epoch_1.pth')['state_dict']
    for name, value in runner.model.state_dict().items():
        if name.startswith((SCORER, CONNECTOR)):
            assert not torch.equal(value, first[name]), name
            assert value.dtype == torch.float32, name


# --- Two processes -------------------------------------------------------------

STEPS = 3
ROUNDING = dict(rtol=1e-4, atol=1e-6)


def statistics(parts):
    """What a process keeps after steps on its parts of the batches."""
    mean, norm = RunningMean((4,)), RunningNorm(4)
    loss = CAKDFeatureLoss(gamma='adaptive', standardize=True, channels=4)
    logit = CAKDFeatureLoss(tau=2.0)
    balancer = LossRatioBalancer('loss_a', 'loss_logit', limits=(1e-9, 1e9))
    for student, teacher in parts:
        mean.update(teacher.mean(0))
        norm.update(teacher)
        values = dict(loss_a=loss(student, teacher), loss_logit=logit(student, teacher))
        balancer(values)
    return {
        'mean': mean.value,
        'norm.mean': norm.mean,
        'norm.var': norm.var,
        'loss.norm.var': loss.norm.var,
        'r': loss.terms['r'],
        'gamma': loss.terms['gamma'],
        'lambda': balancer.terms['loss_a']['lambda'],
    }


def batches():
    generator = torch.Generator().manual_seed(3)
    scale = torch.tensor([1.0, 5.0, 0.2, 2.0])
    return [
        (
            torch.randn(12, 4, generator=generator),
            scale * torch.rand(12, 4, generator=generator),
        )
        for _ in range(STEPS)
    ]


def steps_under_ddp(cfg, rank, stopped=False, unused=False):
    """Two steps with own images; return the losses' names and some gradients."""
    model = algorithm(cfg)
    model.distillation_stopped = stopped
    wrapped = MMDistributedDataParallel(model, find_unused_parameters=unused)
    try:
        for step in range(2):
            wrapped.zero_grad()
            losses = wrapped(**batch(model, seed=2 * step + rank), mode='loss')
            sum(losses.values()).backward()
    except RuntimeError as error:
        return str(error)
    places = (f'{SCORER}gate.0.weight', f'{CONNECTOR}linear.weight')
    grads = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if name in places
    }
    return sorted(losses), grads


def distilled(cfg, part):
    """Buffers of the distiller after two steps on a part of each batch."""
    model = algorithm(cfg).double()
    model.student.eval()  # each rank has the statistics of its own images
    for step in range(2):
        data = batch(model, seed=step)
        inputs, samples = data['inputs'][part].double(), data['data_samples'][part]
        model(inputs, samples, mode='loss')
    return {
        **dict(model.distiller.named_buffers()),
        **{
            name: value
            for name, value in model.distiller.terms().items()
            if name.endswith(('/r', '/lambda'))
        },
    }


def test_two_ranks(tmp_path):
    """They keep the statistics of the joined batch and train under DDP."""
    cfg, double = config(tmp_path), config(tmp_path, DOUBLE)
    double.model.distiller.balancer.limits = (1e-9, 1e9)

    def work(rank):
        found = statistics([(s[rank::2], t[rank::2]) for s, t in batches()])
        found |= distilled(double, slice(rank, None, 2))
        found['distilled'] = steps_under_ddp(cfg, rank)
        found['stopped'] = steps_under_ddp(cfg, rank, stopped=True, unused=True)
        found['refused'] = steps_under_ddp(cfg, rank, stopped=True)
        return found

    first, second = two_ranks(work, tmp_path)
    expected = statistics(batches()) | distilled(double, slice(None))
    alone = statistics([(s[::2], t[::2]) for s, t in batches()])
    alone |= distilled(double, slice(0, None, 2))
    for name, value in expected.items():
        assert torch.equal(first[name], second[name]), name
        is_double = value.dtype == torch.float64
        tolerance = dict(rtol=1e-13, atol=1e-13) if is_double else ROUNDING
        torch.testing.assert_close(first[name], value, **tolerance)
        # One half of the batch would give something else.
        is_count = name.endswith('batches')
        assert is_count or not torch.allclose(alone[name], value, rtol=1e-5), name
    # All that is trained gets a gradient in every step, the same on both ranks,
    # although a part of the graph is gone through for grad_ratio before.
    names, grads = first['distilled']
    assert names == sorted([*ALL_LOSSES, SCORER_LOSS])
    assert grads.keys() == {f'{SCORER}gate.0.weight', f'{CONNECTOR}linear.weight'}
    for name, grad in grads.items():
        assert grad.abs().max() > 0, name
        assert torch.equal(grad, second['distilled'][1][name]), name
    # With distillation stopped they get none, and DDP has to be told.
    for rank in (first, second):
        assert rank['stopped'][0] == ['student.loss']
        assert 'find_unused_parameters=True' in rank['refused']
