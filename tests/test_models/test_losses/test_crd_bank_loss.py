import math
import re
from types import SimpleNamespace

import goldens
import numpy as np
import pytest
import torch
from mmrazor.registry import MODELS
from sizes import Sizes
from torch.testing import assert_close

from cakd_mm.engine.hooks import FiniteLossHook
from cakd_mm.models.losses import CRDBankLoss
from cakd_mm.models.losses import crd_bank_loss as module

LABELS = np.arange(40) % 4


def make(seed=0, **settings):
    """A small loss with a training set."""
    labels = settings.pop('labels', LABELS)
    settings = dict(channels_S=6, channels_T=9, feat_dim=5, negatives=12) | settings
    with torch.random.fork_rng():
        torch.manual_seed(1)
        loss = CRDBankLoss(**settings)
    loss.set_dataset(labels, seed=seed)
    return loss


def features(count=8, seed=0, **kwargs):
    draw = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, 6, generator=draw, **kwargs),
        torch.randn(count, 9, generator=draw, **kwargs),
    )


def state_of(loss):
    return {name: value.clone() for name, value in loss.state_dict().items()}


# The original's numbers


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('entry', goldens.cases('CRD', group='features'))
def test_two_steps_match_the_original(entry, dtype):
    golden, hp, shapes = goldens.load(entry), entry['hparams'], entry['shapes']
    loss = CRDBankLoss(
        shapes['s_dim'],
        shapes['t_dim'],
        feat_dim=shapes['feat_dim'],
        negatives=hp['K'],
        tau=hp['T'],
        momentum=hp['momentum'],
        loss_weight=1.0,
    ).to(dtype)
    loss.set_dataset(np.arange(shapes['n_data']) % 2)
    for side in ('s', 't'):
        layer = getattr(loss, f'embed_{side.upper()}')
        for name in ('weight', 'bias'):
            value = golden[f'w.embed_{side}.linear.{name}']
            getattr(layer, name).data.copy_(value)
    loss.bank_S.copy_(golden['memory_v1'])
    loss.bank_T.copy_(golden['memory_v2'])
    tolerance = entry['tolerance'][str(dtype).removeprefix('torch.')]
    rtol = tolerance['grad_rtol_of_max']

    def close(got, expected):
        expected = expected.double()
        atol = rtol * expected.abs().max().item()
        assert_close(got.double(), expected, rtol=0, atol=atol)

    for step in '12':
        negatives = golden[f'contrast_idx_{step}'][:, 1:]
        assert torch.equal(golden[f'contrast_idx_{step}'][:, 0], golden[f'idx_{step}'])
        loss.draw = lambda indices, negatives=negatives: negatives
        ours = golden[f'f_s_{step}'].to(dtype).requires_grad_()
        theirs = golden[f'f_t_{step}'].to(dtype).requires_grad_()
        value = loss(ours, theirs, golden[f'idx_{step}'])
        loss.zero_grad()
        value.backward()
        expected = golden[f'loss_{step}']
        assert_close(value.double(), expected, rtol=tolerance['loss_rtol'], atol=0)
        close(ours.grad, golden[f'grad_f_s_{step}'])
        assert theirs.grad is None
        for side in ('s', 't'):
            for name in ('weight', 'bias'):
                grad = getattr(getattr(loss, f'embed_{side.upper()}'), name).grad
                close(grad, golden[f'gw{step}.embed_{side}.linear.{name}'])
        close(loss.log_z.exp(), golden[f'Z_{step}'])
        close(loss.bank_S, golden[f'memory_v1_after_{step}'])
        close(loss.bank_T, golden[f'memory_v2_after_{step}'])


# What it does in a step


def test_the_defaults():
    loss = CRDBankLoss(3, 4)
    assert (loss.feat_dim, loss.negatives, loss.tau) == (128, 16384, 0.07)
    assert (loss.momentum, loss.loss_weight) == (0.5, 0.8)
    built = MODELS.build(dict(type='CRDBankLoss', channels_S=3, channels_T=4))
    assert isinstance(built, CRDBankLoss)


def test_first_banks_are_uniform_and_follow_from_the_seed():
    labels = np.arange(3000) % 7
    first, same, other = (make(seed=s, labels=labels) for s in (3, 3, 4))
    bound = math.sqrt(3 / 5)
    for name in ('bank_S', 'bank_T'):
        bank = getattr(first, name)
        assert torch.equal(bank, getattr(same, name))
        assert not torch.equal(bank, getattr(other, name))
        assert 0.99 * bound < bank.abs().max() <= bound
        assert bank.mean().abs() < 0.02
    assert not torch.equal(first.bank_S, first.bank_T)
    assert (first.seed.item(), other.seed.item()) == (3, 4)


def test_parts_of_a_bank_make_no_difference(monkeypatch):
    whole = make()
    monkeypatch.setattr(module, '_ROWS', 7)
    parts = make()
    # The generator of torch draws another way for fewer than 16 numbers.
    assert parts.bank_S.shape == whole.bank_S.shape
    assert len(parts.bank_S.unique(dim=0)) == 40


def test_z_stays_that_of_the_first_batch():
    loss = make()
    assert not loss.has_z
    loss(*features(seed=0), torch.arange(8))
    assert loss.has_z
    first = loss.log_z.clone()
    loss(*features(seed=1), torch.arange(8, 16))
    assert torch.equal(loss.log_z, first)
    assert first[0] != first[1]


def test_negatives_change_with_the_step():
    loss, batch = make(), (*features(), torch.arange(8))
    drawn = []
    for _ in range(2):
        drawn.append(loss.draw(batch[2]))
        loss(*batch)
    assert not torch.equal(*drawn)


def test_eval_before_any_training_leaves_nothing_behind():
    loss = make().eval()
    before = state_of(loss)
    value = loss(*features(), torch.arange(8))
    assert value.isfinite()
    assert all(torch.equal(before[name], v) for name, v in loss.state_dict().items())
    # It used the normaliser that training would have stored.
    assert loss.train()(*features(), torch.arange(8)) == value


def test_only_the_batch_is_entered_and_every_row_has_length_one():
    loss = make()
    before = state_of(loss)
    loss(*features(), torch.arange(0, 40, 5))
    for name in ('bank_S', 'bank_T'):
        bank, changed = getattr(loss, name), (getattr(loss, name) != before[name])
        rows = changed.any(1).nonzero().flatten()
        assert rows.tolist() == list(range(0, 40, 5))
        assert_close(bank[rows].norm(dim=1), torch.ones(8))
    assert loss.steps == 1


def test_a_step_copies_no_bank():
    """Also with the guard against nan, in the way it works on a GPU."""
    loss = make(labels=np.arange(5000) % 3, feat_dim=64)
    guard = FiniteLossHook(mode='deferred', interval=2)
    runner = SimpleNamespace(model=loss, iter=0, epoch=0, train_loop=None)
    guard.before_train(runner)
    loss(*features(), torch.arange(8))  # the first step computes Z
    with Sizes() as sizes:
        for runner.iter in range(1, 5):
            value = loss(*features(), torch.arange(8))
            value.backward()
            guard.after_train_iter(runner, runner.iter, outputs=dict(loss=value))
    # Scores of eight images in a bank.
    assert sizes.largest == 4 * 8 * 5000 < loss.bank_S.nbytes / 7


def test_an_image_that_comes_twice_is_entered_once_in_any_order():
    ours, theirs = features(4)
    first, second, one = (make(momentum=0.25) for _ in range(3))
    first(ours, theirs, torch.tensor([3, 7, 3, 3]))
    order = [2, 0, 3, 1]
    second(ours[order], theirs[order], torch.tensor([3, 3, 3, 7]))
    assert_close(first.bank_S, second.bank_S)
    assert_close(first.bank_T, second.bank_T)
    # The mean of its embeddings, taken in once.
    rows = module.unit(one.embed_S(ours[[0, 2, 3]])).mean(0)
    mixed = 0.25 * one.bank_S[3] + 0.75 * rows
    assert_close(first.bank_S[3], (mixed / mixed.norm()).detach())


def test_maps_are_averaged_and_both_embeddings_learn():
    draw = torch.Generator().manual_seed(0)
    ours = torch.randn(4, 6, 3, 2, generator=draw)
    theirs = torch.randn(4, 9, 2, 2, generator=draw)
    loss = make()
    value = loss(ours, theirs, torch.arange(4))
    value.backward()
    expected = make()(ours.mean((2, 3)), theirs.mean((2, 3)), torch.arange(4))
    assert_close(value, expected)
    for parameter in loss.parameters():
        assert parameter.grad.abs().max() > 0


def test_banks_are_not_entered_in_half_precision():
    """Neither in that of autocast, nor in that of the maps, whose mean it would be."""
    draw = torch.Generator().manual_seed(0)
    ours = torch.randn(4, 6, 3, 2, generator=draw).bfloat16()
    theirs = torch.randn(4, 9, 2, 2, generator=draw).bfloat16()
    indices = torch.tensor([3, 7, 3, 9])
    half, whole = make(), make()
    whole(ours.float(), theirs.float(), indices)
    with torch.autocast('cpu', torch.bfloat16):
        half(ours, theirs, indices)
    for name, value in whole.state_dict().items():
        assert torch.equal(half.state_dict()[name], value), name


# Degenerate batches


@pytest.mark.parametrize('place', ['S', 'T', 'ST'])
def test_an_all_zero_embedding_stays_finite(place):
    loss = make()
    for side in place:
        getattr(loss, f'embed_{side}').bias.data.zero_()
    ours, theirs = features()
    if 'S' in place:
        ours[2] = 0
    if 'T' in place:
        theirs[2] = 0
    for _ in range(3):
        loss.zero_grad()
        value = loss(ours.requires_grad_(), theirs, torch.arange(8))
        value.backward()
        assert value.isfinite()
        tensors = [ours.grad, *(p.grad for p in loss.parameters())]
        assert all(t.isfinite().all() for t in [*tensors, *loss.buffers()])


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_what_is_not_finite_reaches_no_buffer(bad):
    loss, (ours, theirs), clean = make(), features(), features(seed=5)
    ours[3, 1] = bad
    before = state_of(loss)
    # The first step: neither Z nor the bank may keep it.
    assert not loss(ours, theirs, torch.arange(8)).isfinite()
    assert all(value.isfinite().all() for value in loss.state_dict().values())
    assert torch.equal(loss.bank_S[3], before['bank_S'][3])
    assert torch.equal(loss.bank_T[3], before['bank_T'][3])
    assert not torch.equal(loss.bank_S[2], before['bank_S'][2])
    assert not loss.has_z
    assert loss(*clean, torch.arange(8)).isfinite()
    assert loss.has_z
    # A later step.
    z = loss.log_z.clone()
    loss(ours, theirs, torch.arange(8))
    assert torch.equal(loss.log_z, z)
    assert loss(*clean, torch.arange(8)).isfinite()


def test_an_empty_batch_changes_no_bank_and_sets_no_z():
    loss = make()
    empty = torch.zeros(0, dtype=torch.int64)
    loss(*features(0), empty)
    assert not loss.has_z
    loss(*features(), torch.arange(8))
    before = state_of(loss)
    loss(*features(0), empty)
    assert all(
        torch.equal(before[name], value)
        for name, value in loss.state_dict().items()
        if name != 'steps'
    )


# Checkpoints


@pytest.mark.parametrize('known', [False, True], ids=['bare', 'set up'])
def test_a_resumed_loss_goes_on_as_if_not_interrupted(known):
    loss = make(seed=9)
    for step in range(2):
        loss(*features(seed=step), torch.arange(step, 40, 5))
    saved = state_of(loss)
    other = CRDBankLoss(6, 9, feat_dim=5, negatives=12)
    if known:
        other.set_dataset(LABELS, seed=77)
        other(*features(), torch.arange(8))
    other.load_state_dict(saved)
    other.set_dataset(LABELS, seed=77)
    for step in range(2, 4):
        indices = torch.arange(step, 40, 5)
        assert torch.equal(loss.draw(indices), other.draw(indices))
        values = [x(*features(seed=step), indices) for x in (loss, other)]
        assert torch.equal(*values)
    for name, value in loss.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_a_bank_of_another_training_set_is_refused():
    saved = make().state_dict()
    shorter, other = make(labels=LABELS[:30]), make(labels=(LABELS + 1) % 4)
    match = re.escape(
        "`load_from` = '40 images': The bank of CRDBankLoss has 30 images, this "
        'has 40. Resume with the same training set'
    )
    with pytest.raises(ValueError, match=match):
        shorter.load_state_dict(saved)
    match = 'has other labels: image 0 is of class 1, here of class 0'
    with pytest.raises(ValueError, match=match):
        other.load_state_dict(saved, strict=False)
    bare = CRDBankLoss(6, 9, feat_dim=5)
    bare.load_state_dict(saved)
    with pytest.raises(ValueError, match='`train_dataloader.dataset` = .30 images'):
        bare.set_dataset(LABELS[:30])


def test_setting_the_same_set_again_keeps_the_bank():
    loss = make()
    loss(*features(), torch.arange(8))
    before = state_of(loss)
    loss.set_dataset(torch.from_numpy(LABELS), seed=5)
    assert all(torch.equal(before[name], v) for name, v in loss.state_dict().items())


def test_a_loss_without_a_set_can_be_saved_and_loaded():
    state = CRDBankLoss(6, 9).state_dict()
    assert all(value.isfinite().all() for value in state.values())
    CRDBankLoss(6, 9).load_state_dict(state)


# Errors


@pytest.mark.parametrize(
    ('settings', 'match'),
    [
        (dict(channels_S=0), 'channels_S must be a positive integer, got 0'),
        (dict(feat_dim=1.5), 'feat_dim must be a positive integer, got 1.5'),
        (dict(momentum=1), r'momentum must be in \[0, 1\), got 1'),
    ],
)
def test_settings_out_of_range(settings, match):
    with pytest.raises(ValueError, match=match + '.*CRDBankLoss'):
        CRDBankLoss(**(dict(channels_S=3, channels_T=3) | settings))


@pytest.mark.parametrize(
    ('labels', 'match'),
    [
        (np.zeros((4, 3), dtype=int), r'labels int64\(4, 3\).*one class each'),
        (np.array([0.0, 1.0]), r'labels float64\(2,\).*one class each'),
        (np.array([[0], [1, 2]], dtype=object), 'labels object.*one class each'),
        (np.array([0, -1]), 'negative or far too large.*Number classes from 0'),
        (np.array([3, 3, 3]), 'no images of another class'),
    ],
)
def test_labels_that_do_not_do(labels, match):
    with pytest.raises(ValueError, match=match):
        CRDBankLoss(3, 3).set_dataset(labels)


def test_without_a_set_or_indices_the_hook_is_named():
    batch = features()
    for loss, what in (
        (CRDBankLoss(6, 9), 'a training set'),
        (make(), 'the index of its images'),
    ):
        with pytest.raises(RuntimeError, match=f'{what}: write .*SampleIndexHook'):
            loss(*batch)
    with pytest.raises(RuntimeError, match='a training set'):
        CRDBankLoss(6, 9)(*batch, torch.arange(8))


def test_indices_that_were_handed_over_are_used_once():
    loss, batch = make(), features()
    loss.indices = torch.arange(8)
    value = loss(*batch)
    assert value == make()(*batch, torch.arange(8))
    with pytest.raises(RuntimeError, match='the index of its images'):
        loss(*batch)


@pytest.mark.parametrize(
    ('indices', 'match'),
    [
        (torch.arange(7), r'shape \(8,\).*int64 of shape \(7,\)'),
        (torch.arange(8.0), 'got torch.float32'),
        (torch.arange(33, 41), 'indices holds 40, but the training set has 40 images'),
        (torch.arange(-1, 7), 'indices holds -1'),
    ],
)
def test_indices_that_do_not_fit(indices, match):
    with pytest.raises(ValueError, match=match):
        make()(*features(), indices)


def test_the_last_index_is_one():
    assert make()(*features(1), torch.tensor([39], dtype=torch.int32)).isfinite()


@pytest.mark.parametrize(
    ('ours', 'theirs', 'match'),
    [
        (None, torch.ones(8, 6), r'preds_T .*\(8, 6\).*channels_T=9'),
        (torch.ones(8, 4, 6), None, r'preds_S has shape \(8, 4, 6\)'),
    ],
)
def test_features_that_do_not_fit(ours, theirs, match):
    given = features()
    ours = given[0] if ours is None else ours
    theirs = given[1] if theirs is None else theirs
    with pytest.raises(ValueError, match=match):
        make()(ours, theirs, torch.arange(8))


def test_the_banks_are_entered_outside_of_autocast(monkeypatch):
    """Otherwise a GPU may compute what enters them in half precision."""
    active = []

    def enter(*args):
        active.append(torch.is_autocast_cpu_enabled())

    monkeypatch.setattr(module, 'update_bank', enter)
    loss = CRDBankLoss(3, 4, feat_dim=5, negatives=12)
    loss.set_dataset(torch.arange(40) % 4)
    with torch.autocast('cpu', torch.bfloat16):
        loss(torch.ones(2, 3), torch.ones(2, 4), torch.arange(2))
        assert torch.is_autocast_cpu_enabled()
    assert active == [False, False]
