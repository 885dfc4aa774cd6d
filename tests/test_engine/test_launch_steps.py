"""A training has steps, and as many on every rank."""

from types import SimpleNamespace

import pytest
from ranks import two_ranks
from tiny import digits_config
from torch import zeros
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from cakd_mm.engine import launch
from cakd_mm.utils.agreement import exchange

ALONE = 'vanilla/resnet8_digits.py'


def loop(images: int = 8, **options) -> SimpleNamespace:
    dataset = TensorDataset(zeros(images))
    loader = DataLoader(dataset, **{'batch_size': 4, **options})
    return SimpleNamespace(dataloader=loader)


def runner(train, val=None) -> SimpleNamespace:
    return SimpleNamespace(train_loop=train, val_loop=val)


def test_refuses_a_training_without_a_step():
    launch.check_steps(runner(loop(4, drop_last=True), loop()))
    text = (
        r"`train_dataloader` = '0 batches': It gives no batch of the 3 images "
        r'\(batch_size=4, drop_last=True\)\. Give it more images, or lower'
    )
    with pytest.raises(ValueError, match=text):
        launch.check_steps(runner(loop(3, drop_last=True)))


def test_refuses_a_validation_of_nothing():
    text = "`val_dataloader` = '0 batches': It gives no batch of the 0 images"
    with pytest.raises(ValueError, match=text):
        launch.check_steps(runner(loop(), loop(0, sampler=[])))


def test_a_set_without_a_length_gives_what_it_likes():
    class Endless(IterableDataset):
        def __iter__(self):
            yield 1

    endless = SimpleNamespace(dataloader=DataLoader(Endless()))
    launch.check_steps(runner(endless, endless))


def test_ranks_with_unequal_numbers_are_refused_on_both(tmp_path):
    def work(rank: int) -> list[str]:
        launch.check_steps(runner(loop(8), loop(8 + 4 * rank)))  # only scored
        found = []
        for images in (8 + 4 * rank, 4 - 4 * rank):
            try:
                launch.check_steps(runner(loop(images, sampler=range(images))))
            except ValueError as error:
                found.append(str(error))
        return found

    def other_loops(rank: int) -> list[int]:
        launch.check_steps(runner(loop(8), loop(4) if rank else None))
        return exchange(rank)  # which no rank's second loop takes

    (tmp_path / 'other').mkdir()
    assert two_ranks(other_loops, tmp_path / 'other') == [[0, 1], [0, 1]]
    for uneven, none in two_ranks(work, tmp_path):
        assert "`train_dataloader` = '2 and 3 batches': The ranks have" in uneven
        assert "`train_dataloader` = '1 and 0 batches': It gives no batch" in none


def test_the_tools_runner_is_checked(tmp_path):
    cfg = digits_config(
        ALONE,
        images=3,
        train_dataloader__drop_last=True,
        work_dir=str(tmp_path),
        launcher='none',
        experiment_name=tmp_path.name,
    )
    with pytest.raises(ValueError, match='no batch of the 3 images'):
        launch.check_steps(launch.build_runner(cfg))
