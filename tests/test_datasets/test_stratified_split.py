"""The split: whole, without overlap, the same share of each class, by seed."""

from hypothesis import given
from hypothesis import strategies as st

from cakd_mm.datasets.stratified_split import stratified_split


def samples_of(counts):
    return [(f'{x}/{i}', x) for x, count in enumerate(counts) for i in range(count)]


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**40),
)
def test_each_class_gives_its_share(counts, share, seed):
    samples = samples_of(counts)
    train, val = stratified_split(samples, share, seed)
    assert sorted(train + val, key=samples.index) == samples
    assert not set(train) & set(val)
    for label, count in enumerate(counts):
        own = sum(x == label for _, x in val)
        rest = count - own
        assert rest >= 1
        assert own == 0 if count == 1 else own >= 1
        assert abs(own - share * count) <= 1 or 1 in (own, rest)
    assert (train, val) == stratified_split(samples, share, seed)


def test_another_seed_splits_otherwise_and_classes_differ():
    samples = samples_of([50, 50])
    first, second = (stratified_split(samples, 0.2, seed)[1] for seed in (0, 1))
    assert first != second
    own = [
        [name.partition('/')[2] for name, x in first if x == label] for label in (0, 1)
    ]
    assert own[0] != own[1]
