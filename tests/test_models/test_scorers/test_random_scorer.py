"""RandomScorer: chance, and no more."""

import copy

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from tiny import algorithm, digits_config, save_teacher
from torch.testing import assert_close

from cakd_mm.datasets import LabelBatch
from cakd_mm.models.layout import strongest


def build():
    return MODELS.build(dict(type='RandomScorer'))


@pytest.mark.parametrize('shape', [(4, 9), (4, 9, 5)], ids=str)
def test_a_score_per_channel_whatever_the_feature(shape):
    torch.manual_seed(3)
    scores = build()(torch.zeros(shape))
    assert scores.shape == (4, 9)
    assert scores.unique().numel() == 36
    torch.manual_seed(3)
    assert_close(build()(torch.randn(shape, generator=torch.Generator())), scores)


def test_steps_differ_and_a_checkpoint_brings_them_back():
    scorer, other, feature = build(), build(), torch.zeros(4, 9)
    first, saved = scorer(feature), copy.deepcopy(scorer.state_dict())
    assert not other(feature).equal(first)  # it has a seed of its own
    second, third = scorer(feature), scorer(feature)
    assert not first.equal(second) and not second.equal(third)
    other.load_state_dict(saved)
    assert other(feature).equal(second)
    other.eval()
    assert other(feature).equal(third) and other(feature).equal(third)


@pytest.mark.parametrize('each', [1, 3], ids=['images', 'rows of images'])
def test_scores_follow_the_image_wherever_it_is(each):
    scorer = build().eval()
    images = torch.tensor([70, 2, 1_281_166, 5])

    def of(part):
        scorer.images = part
        return scorer(torch.zeros(each * len(part), 9)).view(-1, each, 9)

    whole = of(images)
    assert whole.unique().numel() == 4 * each * 9
    for parts in ([[3, 1], [0, 2]], [[0], [1], [2], [3]], [[2, 0, 1, 3], []]):
        for part in parts:
            assert of(images[part]).equal(whole[part])


def loss_of_ranks(monkeypatch, rank, ranks):
    """A loss that takes itself for one of so many ranks, and its scores."""
    module = 'cakd_mm.models.scorers.image_numbers'
    monkeypatch.setattr(f'{module}.get_rank', lambda: rank)
    monkeypatch.setattr(f'{module}.get_world_size', lambda: ranks)
    torch.manual_seed(0)
    loss = MODELS.build(dict(type='CAKDFeatureLoss', scorer=dict(type='RandomScorer')))
    seen = []
    loss.scorer.register_forward_hook(lambda *args: seen.append(args[-1]))
    return loss, seen


@pytest.mark.parametrize('ranks', [1, 2, 4])
@pytest.mark.parametrize('is_known', [False, True], ids=['by place', 'by index'])
def test_ranks_draw_what_one_rank_draws(monkeypatch, ranks, is_known):
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 8, 9, generator=draw)
    indices = torch.tensor([3, 99, 4, 0, 17, 50, 8, 1])
    alone, expected = loss_of_ranks(monkeypatch, 0, 1)
    alone.indices = indices if is_known else None
    value = alone(student, teacher)
    values = []
    for rank in range(ranks):
        part = slice(rank, None, ranks)  # as samplers deal images out
        if is_known:
            part = slice(8 // ranks * rank, 8 // ranks * (rank + 1))
        loss, seen = loss_of_ranks(monkeypatch, rank, ranks)
        loss.indices = indices[part] if is_known else None
        values.append(loss(student[part], teacher[part]))
        assert seen[0].equal(expected[0][part])
    assert_close(sum(values) / ranks, value)


def test_the_algorithm_tells_the_images(tmp_path):
    cfg = digits_config(
        'cakd/ablations/digits/digits_single_random.py',
        model__teacher_ckpt=str(save_teacher(tmp_path / 'teacher.pth')),
    )
    model, seen = algorithm(cfg), []
    scorer = model.distiller.distill_losses.loss_feature.scorer
    scorer.register_forward_hook(lambda *args: seen.append(args[-1]))
    images = torch.zeros(4, 3, 16, 16)

    def strong_of(*indices):
        samples = [
            DataSample(metainfo=dict(sample_idx=index) if index is not None else {})
            for index in indices
        ]
        scorer.steps.zero_()
        model(images, [sample.set_gt_label(1) for sample in samples], mode='loss')
        return seen[-1]

    once = strong_of(7, 5, 3, 9)
    assert strong_of(9, 7, 3, 2)[:3].equal(once[[3, 0, 2]])
    # Places count if an image has no index.
    assert strong_of(7, 5, 3, None).equal(strong_of(0, 1, 2, 3))
    # Resident data has no object for each image.
    scorer.steps.zero_()
    resident = LabelBatch(
        gt_label=torch.ones(4).long(), sample_idx=np.array([9, 7, 3, 2])
    )
    model(images, resident, mode='loss')
    assert seen[-1][:3].equal(once[[3, 0, 2]])


def test_every_channel_is_strong_as_often_as_any_other_and_so_is_every_pair():
    torch.manual_seed(0)
    mask = strongest(build()(torch.zeros(4000, 4)), 2)
    # five standard errors of 4000 draws
    assert_close(mask.float().mean(0), torch.full((4,), 0.5), rtol=0, atol=0.04)
    together = (mask[:, 0] & mask[:, 1]).float().mean().item()
    assert together == pytest.approx(1 / 6, abs=0.03)
    assert (mask[0] != mask).any()


def test_it_needs_nothing():
    scorer = build()
    assert scorer.needs == ()
    assert scorer.elementwise
    assert scorer.auxiliary is None
    assert scorer.state_dict().keys() == {'seed', 'steps'}
