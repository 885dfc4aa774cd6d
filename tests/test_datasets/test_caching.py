import io
import os
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from cakd_mm.datasets import caching
from cakd_mm.datasets.caching import cache_folder, cached_images, cached_scan, stamp

OLD = 1_600_000_000 * 10**9


class Files:
    """Two files of numbers, read as images or listed; counts how often."""

    def __init__(self, root):
        self.root, self.count = root, 0
        self.paths = [str(root / name) for name in 'ab']

    def write(self, place, content, when=OLD):
        Path(self.paths[place]).write_bytes(content)
        os.utime(self.paths[place], ns=(when, when))

    def decode(self):
        self.count += 1
        images = [np.frombuffer(Path(p).read_bytes(), np.uint8) for p in self.paths]
        return np.stack(images).reshape(2, 3, 2, 1)

    def list(self):
        self.count += 1
        return dict(names=sorted(path.name for path in self.root.iterdir()))

    def stamps(self):
        return stamp(self.root, ['.', 'a'])

    def cached(self, folder, key=('k', 1)):
        return cached_images(folder, list(key), self.paths, self.decode).data

    def listed(self, folder, key=('k', 1)):
        return cached_scan(folder, list(key), self.stamps, self.list)


@pytest.fixture
def files(tmp_path):
    made = Files(tmp_path)
    for place in range(2):
        made.write(place, b'123456')
    os.utime(tmp_path, ns=(OLD, OLD))
    return made


def cache_files(folder):
    return sorted(folder.glob('*.bin'))


def test_the_second_time_nothing_is_decoded(files, caches):
    first, second = files.cached(caches), files.cached(caches)
    assert files.count == 1
    for images in (first, second):
        assert images.dtype == torch.uint8
        assert torch.equal(images, torch.from_numpy(files.decode()))
    [file] = cache_files(caches)
    assert file.name.startswith('images-')
    assert {path.suffix for path in caches.iterdir()} <= {'.bin', '.lock'}


def test_the_second_time_nothing_is_scanned(files, caches):
    for _ in range(2):
        assert files.listed(caches) == dict(names=['a', 'b'])
    assert files.count == 1
    [file] = cache_files(caches)
    assert file.name.startswith('scan-')


@pytest.mark.parametrize('read', [Files.cached, Files.listed])
def test_without_a_cache_all_is_read(files, caches, read):
    for _ in range(2):
        read(files, None)
    assert files.count == 2
    assert not caches.exists()


def test_who_changes_the_images_changes_no_file(files, caches):
    files.cached(caches).zero_()
    files.cached(caches).zero_()
    assert torch.equal(files.cached(caches), torch.from_numpy(files.decode()))


def test_each_key_and_list_of_files_has_its_own_file(files, caches):
    for key in [('k', 1), ('k', 2)]:
        files.cached(caches, key)
        files.listed(caches, key)
    files.paths.reverse()
    files.cached(caches)
    assert files.count == 5
    assert len(cache_files(caches)) == 5


@pytest.mark.parametrize('read', [Files.cached, Files.listed])
def test_another_keys_file_under_this_name(files, caches, read):
    read(files, caches, ('k', 2))
    [other] = cache_files(caches)
    read(files, caches)
    [own] = set(cache_files(caches)) - {other}
    other.replace(own)
    read(files, caches)
    assert files.count == 3


@pytest.mark.parametrize('content', [b'654321', b'123456'])
def test_a_file_that_was_written_again(files, caches, content):
    """Even with its old time, as archives set it."""
    files.cached(caches)
    files.write(1, content)
    assert files.cached(caches)[1].flatten().tolist() == list(content)
    assert files.count == 2
    assert len(cache_files(caches)) == 1


@pytest.mark.parametrize('when', [OLD, OLD + 1, OLD - 10**12, None])
def test_a_changed_folder_is_scanned_again(files, caches, when):
    files.listed(caches)
    (files.root / 'c').touch()
    if when:  # also if somebody sets the old time again, as tar does
        os.utime(files.root, ns=(when, when))
    assert files.listed(caches) == dict(names=['a', 'b', 'c'])


def test_a_stamp_has_times_and_size(files):
    stats = os.stat(files.paths[0])
    assert stamp(files.root, ['a']) == [['a', OLD, stats.st_ctime_ns, 6]]


@pytest.mark.parametrize('read', [Files.cached, Files.listed])
def test_what_has_just_changed_is_not_cached(files, caches, read):
    """It could change again within the tick of the clock."""
    files.write(0, b'abcdef', time.time_ns())
    read(files, caches)
    assert cache_files(caches) == []


def test_what_changes_meanwhile_is_not_cached(files, caches):
    decode = files.decode

    def slow():
        images = decode()
        files.write(0, b'abcdef')
        return images

    files.decode = slow
    assert files.cached(caches)[0, 0, 0, 0] == ord('1')
    assert cache_files(caches) == []


def damaged(content):
    """Some of the ways in which a file may have suffered."""
    yield 'nothing in it', b''
    yield 'no archive', b'\xff' * len(content)
    yield 'cut', content[:-1]
    yield 'second half', content[len(content) // 2 :]
    yield 'a list', saved([1, 2])
    yield 'empty', saved({})
    yield 'another digest', saved(dict(valid_for=['a', 'b'], data=torch.zeros(3)))
    start = content.index(b'123456' * 2)
    for place in range(start, start + 12):
        bit = bytes([content[place] ^ 1])
        yield f'bit of byte {place}', content[:place] + bit + content[place + 1 :]


def saved(what):
    file = io.BytesIO()
    torch.save(what, file)
    return file.getvalue()


def test_a_damaged_file_is_made_again(files, caches):
    expected = files.cached(caches).clone()
    [file] = cache_files(caches)
    whole = file.read_bytes()
    cases = dict(damaged(whole))
    assert len(cases) == 19
    for number, (name, content) in enumerate(cases.items(), 2):
        file.write_bytes(content)
        assert torch.equal(files.cached(caches), expected), name
        assert files.count == number, name


def test_a_folder_in_place_of_the_file(files, caches):
    files.listed(caches)
    [file] = cache_files(caches)
    file.unlink()
    file.mkdir()
    assert files.listed(caches) == dict(names=['a', 'b'])
    assert {path.suffix for path in caches.iterdir()} <= {'.bin', '.lock'}


@pytest.mark.parametrize('place', ['a file', 'no rights'])
def test_where_nothing_can_be_written(files, tmp_path_factory, place, monkeypatch):
    folder = tmp_path_factory.mktemp('other') / 'place'
    if place == 'a file':
        folder.touch()
    else:

        def refuse(self, **kwargs):
            raise PermissionError

        monkeypatch.setattr(Path, 'mkdir', refuse)
    for _ in range(2):
        assert files.cached(folder).shape == (2, 3, 2, 1)
    assert files.count == 2


def test_where_nothing_can_be_locked(files, caches, monkeypatch):
    def refuse(self):
        raise NotImplementedError('no flock here')

    monkeypatch.setattr(caching.FileLock, 'acquire', refuse)
    files.cached(caches)
    files.cached(caches)
    assert files.count == 1


def test_a_disk_that_is_full(files, caches, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', full)
    assert files.cached(caches).shape == (2, 3, 2, 1)
    assert [path.suffix for path in caches.iterdir()] in ([], ['.lock'])


def test_a_missing_file_is_the_readers_to_name(files, caches):
    files.listed(caches)
    Path(files.paths[0]).unlink()
    with pytest.raises(FileNotFoundError, match=files.paths[0]):
        files.cached(caches)
    assert files.listed(caches) == dict(names=['b'])


def race(root, folder, line):
    files = Files(root)
    line.wait()
    images = files.cached(folder)
    return images.flatten().tolist(), files.count


def test_of_several_processes_one_decodes(files, tmp_path, caches):
    context = get_context('fork')
    with context.Manager() as manager, context.Pool(4) as pool:
        line = manager.Barrier(4)
        found = pool.starmap(race, [(tmp_path, caches, line)] * 4)
    assert [images for images, _ in found] == [list(b'123456' * 2)] * 4
    assert sum(count for _, count in found) == 1


def test_the_folder_of_caches(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'caches'))
    assert cache_folder('auto') == tmp_path / 'caches' / 'cakd_mm'
    assert cache_folder(None) is None
    assert cache_folder(str(tmp_path)) == tmp_path
    monkeypatch.setenv('HOME', str(tmp_path))
    assert cache_folder('~/there') == tmp_path / 'there'
    monkeypatch.setenv('XDG_CACHE_HOME', '')
    assert cache_folder('auto') == tmp_path / '.cache' / 'cakd_mm'
    monkeypatch.delenv('XDG_CACHE_HOME')
    assert cache_folder('auto') == tmp_path / '.cache' / 'cakd_mm'


def test_without_a_home_there_is_no_cache(monkeypatch):
    def expanduser(path):
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.setattr(Path, 'expanduser', expanduser)
    assert cache_folder('auto') is None
