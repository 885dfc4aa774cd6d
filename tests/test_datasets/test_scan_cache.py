import os
import time
from multiprocessing import get_context

import pytest

from cakd_mm.datasets.scan_cache import cached, stamp

OLD = 1_600_000_000 * 10**9


class Scan:
    """Lists a folder, and counts how often."""

    def __init__(self, root):
        self.root, self.count = root, 0

    def __call__(self):
        self.count += 1
        return dict(names=sorted(os.listdir(self.root / 'a')))

    def stamps(self):
        return stamp(self.root, ['list.txt', 'a'])

    def cached(self, folder, key=('k', 1)):
        return cached(folder, list(key), self.stamps, self)


def age(path, ns=OLD):
    os.utime(path, ns=(ns, ns))


@pytest.fixture
def scan(tmp_path):
    root = tmp_path / 'data'
    (root / 'a').mkdir(parents=True)
    (root / 'a' / 'x').touch()
    (root / 'list.txt').write_text('one\n')
    age(root / 'a')
    age(root / 'list.txt')
    return Scan(root)


def test_the_second_time_nothing_is_scanned(scan, caches):
    first = scan.cached(caches)
    assert first == dict(names=['x'])
    assert scan.cached(caches) == first
    assert scan.count == 1
    assert len(list(caches.iterdir())) == 1  # and no part of a file


def test_without_a_cache_all_is_scanned(scan, caches):
    assert [scan.cached(None) for _ in range(2)] == [dict(names=['x'])] * 2
    assert scan.count == 2
    assert not caches.exists()


def test_a_key_has_its_own_cache(scan, caches):
    for key in [('k', 1), ('k', 2), ('l', 1)]:
        scan.cached(caches, key)
    assert scan.count == 3
    assert len(list(caches.iterdir())) == 3


def test_a_cache_of_another_key_under_this_name(scan, caches):
    scan.cached(caches, ('k', 2))
    [other] = caches.iterdir()
    scan.cached(caches)
    [own] = set(caches.iterdir()) - {other}
    other.replace(own)
    scan.cached(caches)
    assert scan.count == 3


@pytest.mark.parametrize('when', [OLD, OLD + 1, OLD - 10**12, None])
def test_a_changed_folder_is_scanned_anew(scan, caches, when):
    scan.cached(caches)
    (scan.root / 'a' / 'y').touch()
    if when:  # also if somebody sets the old time again, as tar does
        age(scan.root / 'a', when)
    assert scan.cached(caches) == dict(names=['x', 'y'])


@pytest.mark.parametrize('name', ['a', 'list.txt'])
def test_what_has_just_changed_is_not_cached(scan, caches, name):
    """It could change again within the tick of the clock."""
    age(scan.root / name, time.time_ns())
    scan.cached(caches)
    assert not caches.exists()


def test_what_changes_during_the_scan_is_not_cached(scan, caches):
    class Meddled(Scan):
        def __call__(self):
            found = super().__call__()
            (self.root / 'a' / 'y').touch()
            age(self.root / 'a')
            return found

    meddled = Meddled(scan.root)
    assert meddled.cached(caches) == dict(names=['x'])
    assert not caches.exists()
    assert scan.cached(caches) == dict(names=['x', 'y'])


def test_the_scan_says_what_is_missing(scan, caches):
    scan.cached(caches)
    (scan.root / 'list.txt').unlink()
    assert scan.cached(caches) == dict(names=['x'])
    assert scan.count == 2


@pytest.mark.parametrize(
    'damage',
    [
        pytest.param(lambda data: b'', id='empty'),
        pytest.param(lambda data: data[: len(data) // 2], id='half'),
        pytest.param(lambda data: data.replace(b'"x"', b'"z"'), id='another name'),
        pytest.param(lambda data: data.split(b'\n')[0], id='the head alone'),
        pytest.param(lambda data: b'null\nnull', id='other json'),
        pytest.param(lambda data: b'\xff\xfe\x00' * 9, id='no text'),
    ],
)
def test_a_damaged_cache_is_as_none(scan, caches, damage):
    scan.cached(caches)
    [path] = caches.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert scan.cached(caches) == dict(names=['x'])
    assert scan.count == 2
    scan.cached(caches)  # mended
    assert scan.count == 2


def test_a_cache_that_cannot_be_written_is_as_none(scan, tmp_path):
    (tmp_path / 'file').touch()
    folder = tmp_path / 'file' / 'below'
    assert [scan.cached(folder) for _ in range(2)] == [dict(names=['x'])] * 2
    assert scan.count == 2


def test_a_disk_that_is_full_leaves_no_part(scan, caches, monkeypatch):
    def replace(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', replace)
    assert scan.cached(caches) == dict(names=['x'])
    assert list(caches.iterdir()) == []


def use(scan, caches, times, results):
    for _ in range(times):
        for path in caches.glob('*'):
            path.unlink(missing_ok=True)
        results.put(scan.cached(caches))


def test_several_processes_at_once(scan, caches):
    context = get_context('fork')
    results = context.SimpleQueue()
    processes = [
        context.Process(target=use, args=(scan, caches, 20, results)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    found = [results.get() for _ in range(60)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert found == [dict(names=['x'])] * 60
