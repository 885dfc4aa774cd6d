"""Every benchmark runs, and what it writes holds what it says; not how fast it is."""

import json
import random
import runpy
import sys
from importlib.metadata import version

import pytest

from cakd_mm.deployment import latency

# Arguments beside --quick, and the name of the file that is written.
BENCHMARKS = {
    'dense_memory': ([], 'dense_memory'),
    'end_to_end': (['--variants', 'ours, resident data'], 'end_to_end_r20_r8'),
    'exchange': ([], 'exchange'),
    'exports': ([], 'exports'),
    'feature_methods': ([], 'feature_methods'),
    'history': ([], 'history'),
    'loss': ([], 'loss_1threads'),
    'loss_growth': ([], 'loss_growth'),
    'overhead': ([], 'overhead_1threads'),
    'ranks': ([], 'ranks'),
    'resident_data': ([], 'resident_data'),
    'teacher': ([], 'teacher'),
    'teacher_precision': ([], 'teacher_precision'),
}


# They compare no variants by their time.
NO_TABLE = ('dense_memory', 'exchange', 'exports', 'ranks', 'teacher_precision')
# All-reduces, gathers and bytes of one of two ranks in a step, without gradients. A
# batch has 4 images, and the teacher's feature 64 channels, or 32 of the second one.
EXCHANGED = {
    'cakd_feature': (1, 1, 1_040),
    'cakd_logit': (0, 0, 0),
    'cakd_logit_double': (1, 1, 1_580),
    'cakd_logit_feature': (1, 1, 1_048),
    'cmkd': (0, 0, 0),
    'crd': (0, 1, 4_128),
    'ctkd': (0, 0, 0),
    'deit': (0, 0, 0),
    'dist': (0, 0, 0),
    'dkd': (0, 0, 0),
    'kd': (0, 0, 0),
    'ldrld': (0, 0, 0),
    'ls_ctkd': (0, 0, 0),
    'ls_dist': (0, 0, 0),
    'ls_dkd': (0, 0, 0),
    'ls_kd': (0, 0, 0),
    'ls_nkd': (0, 0, 0),
    'mlkd': (0, 0, 0),
    'nkd': (0, 0, 0),
    'norm': (0, 0, 0),
    'ofd': (0, 0, 0),
    'ofd_in1k': (0, 0, 0),
    'reviewkd': (0, 0, 0),
    'reviewkd_in1k': (0, 0, 0),
    'sigmoid_kd': (0, 0, 0),
    'wkd': (0, 0, 0),
    'wkd_feature': (0, 0, 0),
    'wkd_feature_in1k': (0, 0, 0),
    'wkd_in1k': (0, 0, 0),
    'wkd_logit': (0, 0, 0),
    'wttm': (0, 0, 0),
}


def rows_of(data):
    """Yield every row, a dict with a time, of nested results."""
    if isinstance(data, dict):
        if 'median_ms' in data:
            yield data
        else:
            for part in data.values():
                yield from rows_of(part)
    elif isinstance(data, list):
        for part in data:
            yield from rows_of(part)


def test_none_is_forgotten(root):
    scripts = {path.stem for path in (root / 'benchmarks').glob('*.py')}
    others = {'common', 'steps', 'methods', 'plots', 'kills', 'rank_kills'}
    others |= {'gpu_day', 'pair_hours', 'repeated', 'tf32', 'waits'}  # test_gpu_day.py
    assert scripts - others == set(BENCHMARKS)


@pytest.mark.usefixtures('traced_only')
@pytest.mark.parametrize('name', sorted(BENCHMARKS))
def test_it_runs(name, root, benchmarks, tmp_path, monkeypatch):
    """In this process, because each would import torch and mmengine anew."""
    options, file = BENCHMARKS[name]
    script = str(benchmarks / f'{name}.py')
    command = [script, '--quick', *options, '--threads', '1', '--out', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', command)
    monkeypatch.setattr(latency, 'SECONDS', 0.0)
    runpy.run_path(script, run_name='__main__')
    found = json.loads((tmp_path / f'{file}.json').read_text())
    environment = found.pop('environment')
    assert environment['versions']['torch'] == version('torch')
    assert environment['threads'] == 1
    if name == 'exchange':
        check_exchange(found, (root / 'research/docs/speed.md').read_text())
    if name == 'dense_memory':
        # Of a small map, which is one part.
        assert min(found['peak_MiB'].values()) > found['map_MiB']
    rows = list(rows_of(found))
    assert len(rows) > 1 or name in NO_TABLE
    assert all(row['median_ms'] > 0 for row in rows)
    baselines = [row for row in rows if row.get('faster') == 1]
    if any('faster' in row for row in rows):
        assert baselines


def check_exchange(found, page):
    """Compare what was counted with what is expected and what the page shows."""
    for method, row in found['methods'].items():
        counts = row['all_reduces'], row['gathers'], row['bytes']
        assert counts == EXCHANGED[method], method
        assert row['others'] == 0
        assert f'| {method} | {" | ".join(map(str, counts))} |' in page
    assert found['methods'].keys() == EXCHANGED.keys()
    for pair, sizes in found['pairs'].items():
        row = ' | '.join(f'{size / 1e6:.1f}' for size in sizes.values())
        assert f'| {pair} | {row} |' in page


@pytest.mark.usefixtures('benchmarks')
def test_two_kills_of_a_run_change_nothing(monkeypatch, tmp_path):
    """One at some moment, one exactly at a write."""
    import kills

    monkeypatch.setattr(kills, 'EPOCHS', 2)
    words = kills.training(tmp_path)
    rows = kills.series('run', 2, words, tmp_path, random.Random(5))
    assert len(rows) == 2
    for row in rows:
        assert row['values'] > 100_000
        assert (row['differing'], row['parts'], row['left_at_the_end']) == (0, [], [])
    # What is compared would show a difference.
    found = kills.Place(tmp_path / 'other').result()
    assert kills.differing({('a', 0): 1.0}, found) == 1


@pytest.mark.usefixtures('benchmarks')
def test_ratios_are_those_of_a_round():
    from common import spread, summarize

    # The second is twice as fast in every round of a machine that slows down.
    times = {'base': [2.0, 4.0, 12.0], 'fast': [1.0, 2.0, 6.0]}
    base, fast = summarize(times, 'base')
    assert base['faster'] == 1
    assert fast['faster'] == 2
    assert fast['faster_quartiles'] == [2, 2]
    assert fast['median_ms'] == 2000
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, 1.5, 4.5)
    assert spread([7.0]) == (7.0, 7.0, 7.0)


@pytest.mark.usefixtures('benchmarks')
def test_variants_are_visited_in_turn():
    from common import interleave

    visits = []
    variants = {name: (lambda name=name: visits.append(name)) for name in 'abc'}
    times = interleave(variants, rounds=3, seconds=0, warmup=0)
    assert visits == list('abc' + 'abc' + 'bca' + 'cab')
    assert [len(values) for values in times.values()] == [3, 3, 3]
