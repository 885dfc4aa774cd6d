"""NORMLoss: slow numbers, sizes of maps, factors of epochs, mistakes."""

import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.losses import NORMLoss

IMAGES, WIDTH, SIZE = 3, 4, 4


def build(**config) -> NORMLoss:
    return MODELS.build(dict(type='NORMLoss', **config))


def maps(segments: int, *shape: int, seed: int = 0):
    draw = torch.Generator().manual_seed(seed)
    ours = torch.randn(IMAGES, segments, WIDTH, *shape, generator=draw)
    theirs = torch.randn(IMAGES, WIDTH, *shape, generator=draw)
    return ours.double(), theirs.double()


def slow(student, teacher):
    """Image by image and segment by segment; both have the same size."""
    total = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        for segment in ours:
            total = total + ((segment - theirs) ** 2).sum() / theirs.numel()
    return total / len(student)


@pytest.mark.parametrize('shape', [(), (SIZE, SIZE), (2, 5)], ids=str)
@pytest.mark.parametrize('segments', [1, 2, 8])
def test_against_the_slow_loop(segments, shape):
    student, teacher = maps(segments, *shape)
    leaves = [student.clone().requires_grad_() for _ in range(2)]
    loss = build(loss_weight=3.0)
    values = loss(leaves[0], teacher), 3 * slow(leaves[1], teacher)
    assert_close(*values)
    for value in values:
        value.backward()
    assert_close(leaves[0].grad, leaves[1].grad)
    assert_close(loss.terms, dict(segments=slow(student, teacher)))


@pytest.mark.parametrize('shape', [(), (SIZE, SIZE)], ids=str)
def test_a_feature_without_segments_is_one(shape):
    student, teacher = maps(1, *shape)
    want = (student[:, 0] - teacher).square().mean()
    assert_close(build()(student[:, 0], teacher), want)
    assert_close(build()(student, teacher), want)


@pytest.mark.parametrize('larger', ['student', 'teacher'])
def test_the_larger_map_gives_its_greatest_values(larger):
    student, teacher = maps(2, SIZE, SIZE)
    wide = dict(student=student, teacher=teacher)
    wide[larger] = wide[larger].repeat_interleave(2, -2).repeat_interleave(3, -1)
    below = torch.rand_like(wide[larger])
    below[..., ::2, ::3] = 0  # one position of each part has the value
    wide[larger] = wide[larger] - below
    got = build()(preds_S=wide['student'], preds_T=wide['teacher'])
    assert_close(got, slow(student, teacher))


def test_parts_of_unequal_size():
    student, _ = maps(1, 2, 2)
    teacher = torch.arange(9.0).double().view(1, 1, 3, 3).repeat(IMAGES, WIDTH, 1, 1)
    greatest = torch.tensor([[4.0, 5.0], [7.0, 8.0]]).double()
    want = slow(student, greatest.repeat(IMAGES, WIDTH, 1, 1))
    assert_close(build()(student, teacher), want)


def test_the_factor_follows_the_epoch():
    student, teacher = maps(2, SIZE, SIZE)
    loss = build(factors=[(2, 0.5), [5, 0], (7, 3.0)], loss_weight=2.0)
    assert loss.needs_epoch
    found = {}
    for epoch in (0, 1, 2, 4, 5, 6, 7, 100, 3):
        loss.set_epoch(epoch)
        found[epoch] = (loss(student, teacher) / slow(student, teacher)).item()
        assert_close(loss.terms['segments'], slow(student, teacher))
    want = {0: 2, 1: 2, 2: 1, 4: 1, 5: 0, 6: 0, 7: 6, 100: 6, 3: 1}
    assert found == pytest.approx(want)


def test_without_factors_epochs_do_not_matter():
    loss = build()
    assert not loss.needs_epoch
    loss.set_epoch(7)
    assert loss.factor == 1.0


def test_a_step_of_training_has_to_know_its_epoch():
    """Without the hook every epoch would have the factor 1."""
    pair = maps(2, SIZE, SIZE)
    loss = build(factors=[(0, 0.1)])
    with pytest.raises(ValueError, match=r'distill_epoch.*NORMLoss.*DistillEpochHook'):
        loss(*pair)
    assert_close(loss.eval()(*pair), slow(*pair))
    for wrong in (-1, 1.5, None, True):
        with pytest.raises(ValueError, match=f'epoch must be .*{wrong}'):
            loss.set_epoch(wrong)


# Mistakes


@pytest.mark.parametrize(
    'factors',
    [
        5,
        'ab',
        [1, 2],
        [(1,)],
        [(1, 0.5, 2)],
        [(-1, 0.5)],
        [(1.5, 0.5)],
        [(3, 0.5), (2, 1.0)],
        [(3, 0.5), (3, 1.0)],
        dict(a=1),
    ],
    ids=str,
)
def test_factors_in_disorder(factors):
    with pytest.raises(ValueError, match='factors must be pairs of an epoch'):
        build(factors=factors)


@pytest.mark.parametrize('value', [-1, 'x', None, True])
def test_a_factor_out_of_range(value):
    with pytest.raises(ValueError, match='factors must be a non-negative number'):
        build(factors=[(0, value)])


def test_the_teacher_gets_no_gradient():
    student, teacher = maps(2, SIZE, SIZE)
    build()(student.requires_grad_(), teacher.requires_grad_()).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize('width', [2, 5, 8])
def test_segments_of_another_width_are_named(width):
    student = torch.zeros(IMAGES, 2, width, 2, 2)
    with pytest.raises(ValueError, match=rf'of {width} channels.*teacher_channels=4'):
        build()(student, torch.zeros(IMAGES, WIDTH, 2, 2))


@pytest.mark.parametrize(
    ('ours', 'theirs', 'text'),
    [
        ((3, 8, 4, 2), (3, 4, 2), "source='neck.segments'"),
        ((3, 8, 2, 2), (3, 4), "source='neck.segments'"),
        ((3, 2, 4), (3, 4, 2, 2), "source='neck.segments'"),
        ((2, 8, 4), (3, 4), 'tap the same images'),
    ],
)
def test_shapes_that_do_not_fit(ours, theirs, text):
    with pytest.raises(ValueError, match=text):
        build()(torch.zeros(ours), torch.zeros(theirs))


def test_a_tuple_is_refused():
    with pytest.raises(TypeError, match='data_idx=0'):
        build()((torch.zeros(3, 8),), torch.zeros(3, 4))
