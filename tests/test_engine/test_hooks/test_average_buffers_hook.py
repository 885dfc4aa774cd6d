"""On two ranks, the statistics that are scored are those that are saved and resumed."""

import os
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from ranks import two_ranks
from tiny import CONFIGS, algorithm, distill_config
from torch import nn

from cakd_mm.engine.hooks.average_buffers_hook import (
    AverageBuffersHook,
    _buffers_of,
)
from cakd_mm.engine.launch import adapt_to_device

MEAN = 'backbone.bn1.running_mean'
BY_STEP = dict(
    default_hooks__checkpoint__by_epoch=False,
    default_hooks__checkpoint__interval=2,
    default_hooks__checkpoint__type='CheckpointHook',
)
# Options, and the average of the weights.
RUNS = dict(
    whole=(BY_STEP, None),
    resumed=(BY_STEP, None),
    with_buffers=({}, dict(type='StudentEMAHook', update_buffers=True)),
    without_buffers=({}, dict(type='mmpretrain.EMAHook', evaluate_on_origin=True)),
)


def buffers(net):
    return {name: buffer.clone() for name, buffer in net.named_buffers()}


class Watch(Hook):
    """What a rank has counted itself, what it is scored with, and its teacher."""

    priority = 'VERY_HIGH'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.own = buffers(runner.model.module.student)

    def after_train_epoch(self, runner):
        model = runner.model.module
        # As if ranks had unequal teachers.
        model.teacher.backbone.bn1.running_mean += dist.get_rank()
        self.teacher = buffers(model.teacher)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if not hasattr(self, 'scored'):
            self.scored = buffers(runner.model.module.student)

    def after_train(self, runner):
        assert buffers(runner.model.module.teacher).keys() == self.teacher.keys()
        for name, value in buffers(runner.model.module.teacher).items():
            assert torch.equal(value, self.teacher[name]), name


def trained(folder, name):
    """Train an epoch of three steps; return what the rank has seen and ends with."""
    options, average = RUNS[name]
    if name == 'resumed':
        options = dict(options, resume=True, load_from=f'{folder}/whole/iter_2.pth')
    cfg = distill_config(folder, epochs=1, train_dataloader__batch_size=16, **options)
    cfg.launcher = 'pytorch'
    cfg.work_dir = str(folder / name)
    cfg.experiment_name = f'{name}{dist.get_rank()}'
    cfg.custom_hooks = [dict(average, momentum=0.25)] if average else []
    adapt_to_device(cfg)
    runner = Runner.from_cfg(cfg)
    watch = Watch()
    runner.register_hook(watch)
    runner.train()
    dist.barrier()  # rank 1 goes on where rank 0 has saved
    return dict(vars(watch), end=runner.model.module.state_dict())


def agreed(rank):
    """Average a net of many kinds of buffers; return them, the log and an error."""
    net = nn.Module()
    net.norm = nn.BatchNorm1d(8)
    inf, nan = float('inf'), float('nan')
    mean = [0.1, inf, 1e-30, rank, rank or inf, inf if rank else 1, 3e38, nan]
    net.norm.running_mean = torch.tensor(mean)
    net.norm.running_mean[6] *= 1 - 2 * rank
    net.norm.running_var = torch.full((8,), 1 / 3, dtype=torch.float16)
    saved = dict(
        queue=torch.eye(2) * (2 - rank),
        low=torch.tensor(-1.0 if rank else inf),
        seen=torch.tensor(rank),
        started=torch.tensor(bool(rank)),
        phase=torch.tensor(1 + 0j if rank else 1j),
        small=torch.full((3,), 1.0 + rank).to(torch.float8_e4m3fn),
        expanded=torch.full((1,), float(rank)).expand(3),
        empty=torch.zeros(0),
        flipped=torch.arange(6.0).view(2, 3).t(),
    )
    # Ranks may register them in another order.
    for name in sorted(saved, reverse=bool(rank)):
        net.register_buffer(name, saved[name])
    net.register_buffer('cache', torch.ones(1 + rank), persistent=False)
    texts, hook = [], AverageBuffersHook()
    logger = SimpleNamespace(warning=texts.append)
    runner = SimpleNamespace(model=net, hooks=[], logger=logger)
    for _ in range(2):
        hook.after_train_epoch(runner)
        # What differs once more is not told again.
        net.seen += rank
    hook.before_val(runner)
    found = buffers(net)
    if rank:
        net.register_buffer('extra', torch.zeros(3))
    with pytest.raises(ValueError, match='persistent=False') as caught:
        hook.after_train(runner)
    return found, texts, str(caught.value)


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')

    def work(rank):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
        return agreed(rank), {name: trained(folder, name) for name in RUNS}

    return folder, two_ranks(work, folder)


def test_statistics_are_averaged(ranks):
    """Where ranks agree, the mean is what they have to the last bit."""
    inf, nan = float('inf'), float('nan')
    for (net, _, _), _ in ranks[1]:
        mean = [torch.tensor(0.1).item(), inf, 1e-30, 0.5, inf, inf, 0]
        assert net['norm.running_mean'].tolist() == pytest.approx(
            [*mean, nan], nan_ok=True
        )
        assert net['norm.running_mean'][0] == torch.tensor(0.1)
        assert torch.equal(net['norm.running_var'], torch.full((8,), 1 / 3).half())


def test_other_buffers_become_those_of_the_first_rank(ranks):
    (first, _, _), (second, texts, unlike) = (found for found, _ in ranks[1])
    assert first.keys() == second.keys()
    for name, value in first.items():
        expected = value
        if name == 'cache':  # which is not saved
            expected = torch.ones(2)
        equal = torch.equal(second[name].float(), expected.float())
        assert equal or name == 'norm.running_mean', name
    assert second['queue'].tolist() == [[2, 0], [0, 2]]
    assert second['expanded'].tolist() == [0, 0, 0]
    assert second['phase'] == 1j
    names = 'model.expanded, model.low, model.phase, model.queue, model.seen and 2 more'
    [text] = texts
    assert text.endswith(f'and all take what rank 0 has, which is saved: {names}.')
    problem = (
        'The buffer model.extra is not there on rank 0, torch.float32 (3,) on rank 1,'
    )
    assert unlike.startswith(
        f"`default_hooks.buffers` = 'AverageBuffersHook': {problem}"
    )


def test_the_mean_of_both_is_saved(ranks):
    folder, found = ranks
    own = [runs['whole']['own'][MEAN] for _, runs in found]
    assert not torch.equal(*own)
    saved = torch.load(folder / 'whole/iter_3.pth', weights_only=False)['state_dict']
    torch.testing.assert_close(saved[f'architecture.{MEAN}'], sum(own) / 2)
    student = torch.load(folder / 'whole/student.pth', weights_only=False)['state_dict']
    assert torch.equal(student[MEAN], saved[f'architecture.{MEAN}'])


@pytest.mark.parametrize('name', RUNS)
def test_what_is_scored_is_what_is_saved(ranks, name):
    folder, found = ranks
    file = 'iter_3.pth' if RUNS[name][0] else 'epoch_1.pth'
    saved = torch.load(folder / name / file, weights_only=False)['state_dict']
    for _, runs in found:
        scored = runs[name]['scored']
        assert len(scored) > 10
        for key, value in scored.items():
            assert torch.equal(saved[f'architecture.{key}'], value), key


def test_a_resumed_run_ends_with_the_same_model_on_each_rank(ranks):
    for _, runs in ranks[1]:
        whole, resumed = (runs[name]['end'] for name in ('whole', 'resumed'))
        assert whole.keys() == resumed.keys()
        for key, value in whole.items():
            assert torch.equal(value, resumed[key]), key


def test_connectors_are_averaged_and_what_losses_remember_is_not():
    found = {}
    for name in ('reviewkd', 'crd'):
        cfg = Config.fromfile(CONFIGS / f'{name}/{name}_wrn40-2_wrn16-2_cifar100.py')
        cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
        model = algorithm(cfg)
        found[name] = {
            ('distiller' if buffer.name.startswith('distiller') else 'student')
            + f'.{buffer.name.rpartition(".")[2]}'
            for buffer in _buffers_of(model)
            if buffer.is_averaged
        }
    of_student = {'student.running_mean', 'student.running_var'}
    of_connectors = {'distiller.running_mean', 'distiller.running_var'}
    assert found == dict(reviewkd=of_student | of_connectors, crd=of_student)
