import copy
import pickle
import random

import numpy as np
import pytest
import torch
from mmpretrain.engine.hooks import SwitchRecipeHook
from torch.utils.data import DataLoader, Dataset, Subset

from cakd_mm.datasets import Digits, SeededDataset
from cakd_mm.datasets.seeded_dataset import Place, seed_everything

RANDOM_CROP = [
    dict(type='mmpretrain.Resize', scale=16),
    dict(type='mmpretrain.RandomCrop', crop_size=16, padding=4),
    dict(type='mmpretrain.PackInputs'),
]


class Noise(Dataset):
    """Draws from every random source that transforms use."""

    metainfo = dict(classes=('a', 'b'))

    def __len__(self):
        return 6

    def __getitem__(self, index):
        draws = (random.random(), np.random.rand(), torch.rand(()).item())
        return torch.tensor([index, *draws], dtype=torch.double)


def items(dataset, epoch=0, workers=0, **options):
    dataset.epoch.fill_(epoch)
    loader = DataLoader(dataset, batch_size=2, num_workers=workers, **options)
    return torch.cat(list(loader))


def test_a_number_changes_every_random_source():
    seed_everything(1, 2, 3)
    first = Noise()[0]
    seed_everything(1, 2, 3)
    assert torch.equal(Noise()[0], first)
    for other in ((1, 2, 4), (1, 3, 2), (2, 1, 3), (1, 2)):
        seed_everything(*other)
        assert (Noise()[0][1:] != first[1:]).all(), other


def test_the_quick_way_draws_the_same_on_the_cpu(monkeypatch):
    seed_everything(1, 2, 3)
    first = Noise()[0]
    monkeypatch.setattr(torch, 'manual_seed', None)  # not called
    seed_everything(1, 2, 3, cpu_only=True)
    assert torch.equal(Noise()[0], first)
    assert SeededDataset(Noise(), seed=0)[0] is not None


@pytest.mark.parametrize(('seed', 'epoch'), [(4, 0), (3, 1), (0, 3)])
def test_another_seed_or_epoch_gives_other_items(seed, epoch):
    first = items(SeededDataset(Noise(), seed=3))
    other = items(SeededDataset(Noise(), seed=seed), epoch=epoch)
    assert torch.equal(other[:, 0], first[:, 0])
    assert (other[:, 1:] != first[:, 1:]).all()


@pytest.mark.parametrize('persistent', [False, True])
def test_workers_see_the_same_items_and_each_new_epoch(persistent):
    data = SeededDataset(Noise(), seed=3)
    want = [items(data, epoch) for epoch in range(3)]
    data.epoch.fill_(0)
    loader = DataLoader(
        data, batch_size=2, num_workers=2, persistent_workers=persistent
    )
    for epoch, wanted in enumerate(want):
        data.epoch.fill_(epoch)
        assert torch.equal(torch.cat(list(loader)), wanted)


def test_everything_else_is_the_wrapped_dataset():
    digits = Digits(split='test')
    data = SeededDataset(digits, seed=0)
    assert len(data) == 797
    assert data.metainfo is digits.metainfo or data.metainfo == digits.metainfo
    assert data.get_gt_labels().tolist() == digits.get_gt_labels().tolist()
    assert data.CLASSES == digits.CLASSES
    with pytest.raises(AttributeError, match='nothing_like_it'):
        _ = data.nothing_like_it


def test_a_pipeline_set_from_outside_reaches_the_wrapped_dataset():
    data = SeededDataset(Digits(pipeline=RANDOM_CROP), seed=0)
    loader = DataLoader(data)

    class Runner:
        train_loop = type('Loop', (), dict(dataloader=loader))

    resize = dict(type='mmpretrain.Resize', scale=24)
    hook = SwitchRecipeHook(
        [dict(action_epoch=1, train_pipeline=[resize, RANDOM_CROP[-1]])]
    )
    hook._switch_train_pipeline(Runner, hook.schedule[1]['train_pipeline'])
    assert data[0]['inputs'].shape == (3, 24, 24)
    assert data.pipeline is data.dataset.pipeline


@pytest.mark.parametrize('clone', [copy.deepcopy, copy.copy, pickle.dumps])
def test_copies_and_pickles_are_equal(clone):
    data = SeededDataset(Noise(), seed=7)
    want = items(data, epoch=2)
    other = clone(data)
    other = pickle.loads(other) if isinstance(other, bytes) else other
    assert (other.seed, int(other.epoch)) == (7, 2)
    assert torch.equal(items(other, epoch=2), want)
    assert other.metainfo == Noise.metainfo


def test_without_a_pipeline_there_is_none():
    assert not hasattr(SeededDataset(Noise(), seed=0), 'pipeline')


def test_an_item_of_a_place_depends_on_seed_and_place_alone():
    dataset = SeededDataset(Noise(), seed=3)
    first = dataset[Place(4, 1, 2)]
    dataset.epoch.fill_(7)
    assert first[0] == 4
    assert torch.equal(dataset[Place(4, 1, 2)], first)
    # The index names the image and changes no number that is drawn.
    assert torch.equal(dataset[Place(5, 1, 2)][1:], first[1:])
    others = [Place(4, 2, 1), Place(4, 1, 3), Place(4, 0, 2)]
    drawn = [dataset[place] for place in others]
    # A step of rank 2 is seeded by these numbers, and an epoch's item as well.
    seed_everything(3, 1, 2)
    drawn.append(Noise()[4])
    dataset.seed = 4
    drawn.append(dataset[Place(4, 1, 2)])
    for other in drawn:
        assert (other[1:] != first[1:]).all()


def test_places_reach_workers():
    dataset = SeededDataset(Noise(), seed=3)
    batches = [[Place(1, 0, 0), Place(1, 0, 1)], [Place(5, 1, 0)]]
    options = dict(batch_sampler=batches, num_workers=1)
    found = torch.cat(list(DataLoader(dataset, **options)))
    assert torch.equal(found, torch.stack([dataset[x] for x in sum(batches, [])]))


def test_a_subset_of_torch_is_seeded_too():
    """It has a method of its own for a whole batch, for which loaders ask."""
    dataset = SeededDataset(Subset(Noise(), [4, 2]), seed=3)
    [found] = DataLoader(dataset, batch_size=2)
    assert torch.equal(found, torch.stack([dataset[0], dataset[1]]))


def test_what_is_seeded_already_is_refused():
    """Only the outer one would be told the epoch, and the inner one draws."""
    with pytest.raises(ValueError, match='`train_dataloader.dataset.type` = .Seeded'):
        SeededDataset(SeededDataset(Noise(), seed=3), seed=3)
