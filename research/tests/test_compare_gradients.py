"""The comparison of gradients, on losses whose relation is known."""

import json
import runpy
import sys

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from tiny import CONFIGS, algorithm, digits_config, save_teacher

from research.compare_gradients import adopt, compare, gradients

TOOL = CONFIGS.parent / 'tools' / 'analysis_tools' / 'compare_gradients.py'
FOLDER = 'cakd/ablations/digits/digits_logit-single_'
LOSS = 'loss_feature'


@pytest.fixture
def build(tmp_path):
    """A config's algorithm, in the state of a first step."""
    checkpoint = str(save_teacher(tmp_path / 'teacher.pth'))

    def make(kind, **options):
        cfg = digits_config(f'{FOLDER}{kind}.py', model__teacher_ckpt=checkpoint)
        cfg.model.distiller.distill_losses.loss_feature.update(options)
        return algorithm(cfg), cfg

    return make


@pytest.fixture
def batches(build):
    model, cfg = build('activation')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    return [model.data_preprocessor(batch, True) for batch in loader][:2]


def loss_of(model):
    return model.distiller.distill_losses[LOSS]


def test_both_parts_make_the_gradient_that_trains(build, batches):
    model, _ = build('network')
    one, rest = gradients(model, LOSS, batches[0], seed=0)
    losses = model(**batches[0], mode='loss')
    assert 'distill.loss_feature.scorer_loss' in losses
    sum(loss for key, loss in losses.items() if 'loss' in key).backward()
    found = [p.grad.flatten() for p in model.student.backbone.parameters()]
    torch.testing.assert_close(one + rest, torch.cat(found), rtol=1e-4, atol=1e-6)
    assert one.norm() > 0 < rest.norm()


def test_a_loss_is_at_its_own_side_whatever_its_weight(build, batches):
    model, _ = build('activation')
    heavy, other = build('activation', loss_weight=0.5)[0], build('squared')[0]
    losses = [
        loss_of(model),
        adopt(loss_of(heavy), loss_of(model)),
        adopt(loss_of(other), loss_of(model)),
    ]
    own, same, apart = compare(model, LOSS, losses, batches)
    assert own['to_own'] == pytest.approx(1, rel=1e-5)
    assert same == pytest.approx(own, rel=1e-4)  # the balancer takes weights away
    assert apart['to_own'] < 0.99
    assert apart['length'] != pytest.approx(own['length'], rel=0.01)


def test_length_and_cosine_are_measured_by_all_other_losses(build, batches):
    model, _ = build('squared')
    one, rest = gradients(model, LOSS, batches[0], seed=0)
    [own] = compare(model, LOSS, [loss_of(model)], batches[:1])
    norms = one.norm(), rest.norm()
    assert own['length'] == pytest.approx(float(norms[0] / norms[1]), rel=0.02)
    assert own['to_rest'] == pytest.approx(float(one @ rest / norms[0] / norms[1]), 0.1)
    assert abs(own['to_rest']) < 0.9 and abs(own['length'] - 1) > 0.1


def test_losses_compute_with_what_the_run_has_learned(build):
    model, other = build('network')[0], build('squared')[0]
    loss_of(model).norm.update(torch.randn(64, 64) + 5)
    adopted = adopt(loss_of(other), loss_of(model))
    state = loss_of(model).norm.state_dict()
    for key, value in adopted.norm.state_dict().items():
        torch.testing.assert_close(value, state[key])


def test_an_untrained_scorer_is_refused(build):
    model, other = build('activation')[0], build('network')[0]
    with pytest.raises(ValueError, match=r'--others.*no weights for .*scorer'):
        adopt(loss_of(other), loss_of(model))


@pytest.fixture
def command(build, tmp_path, monkeypatch):
    """The command on a run of the network; returns the rows it writes."""
    model, cfg = build('network')
    checkpoint = tmp_path / 'epoch_1.pth'
    torch.save(dict(meta={}, state_dict=model.state_dict()), checkpoint)

    def call(*words):
        out = tmp_path / 'out.json'
        words = [str(CONFIGS / f'{FOLDER}network.py'), str(checkpoint), *words]
        words += ['--batches', '1', '--out', str(out)]
        words += ['--cfg-options', f'model.teacher_ckpt={cfg.model.teacher_ckpt}']
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *words])
        runpy.run_path(str(TOOL), run_name='__main__')
        return json.loads(out.read_text())['rows']

    return call


RANDOM = str(CONFIGS / f'{FOLDER}random.py')


def test_command(command, capsys):
    rows = command('--others', RANDOM, RANDOM)
    kinds = [row['loss'].rpartition('_')[2] for row in rows]
    assert kinds == ['network', 'random', 'random']
    assert rows[0]['to_own'] == pytest.approx(1, rel=1e-5)
    assert rows[1]['to_own'] != rows[2]['to_own']  # another draw
    assert '| epoch_1.pth | digits_logit-single_random |' in capsys.readouterr().out
    assert command('--others', RANDOM, RANDOM) == rows  # the same crops


def test_a_loss_that_is_not_there_is_refused(command):
    with pytest.raises(ValueError, match=r'--loss.*loss_featur`?.*loss_feature'):
        command('--others', RANDOM, '--loss', 'loss_featur')
    logit = str(CONFIGS / 'cakd/ablations/digits/digits_logit.py')
    with pytest.raises(ValueError, match=r'digits_logit\.py has no distillation loss'):
        command('--others', logit)
