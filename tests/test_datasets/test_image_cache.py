import os
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from cakd_mm.datasets import image_cache
from cakd_mm.datasets.image_cache import FOOTER, cached_images

OLD = 1_600_000_000 * 10**9


class Files:
    """Two files of numbers, read as images; counts how often."""

    def __init__(self, root):
        self.paths, self.count = [str(root / name) for name in 'ab'], 0
        for path in self.paths:
            self.write(path, b'123456')

    def write(self, path, content, when=OLD):
        Path(path).write_bytes(content)
        os.utime(path, ns=(when, when))

    def decode(self):
        self.count += 1
        images = [np.frombuffer(Path(p).read_bytes(), np.uint8) for p in self.paths]
        return np.stack(images).reshape(2, 3, 2, 1)

    def cached(self, folder, key=('k', 1)):
        return cached_images(folder, list(key), self.paths, self.decode)


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def kept(folder):
    return sorted(folder.glob('images-*.bin'))


def test_the_second_time_nothing_is_decoded(files, caches):
    first, second = files.cached(caches), files.cached(caches)
    assert files.count == 1
    for images in (first, second):
        assert images.dtype == torch.uint8
        assert torch.equal(images, torch.from_numpy(files.decode()))
    [file] = kept(caches)
    assert file.stat().st_size == 12 + FOOTER
    assert {path.suffix for path in caches.iterdir()} <= {'.bin', '.lock'}


def test_without_a_cache_all_is_decoded(files, caches):
    for _ in range(2):
        assert torch.equal(files.cached(None), torch.from_numpy(files.decode()))
    assert files.count == 4
    assert not caches.exists()


def test_each_key_and_list_of_files_has_its_own_file(files, caches):
    for key in [('k', 1), ('k', 2)]:
        files.cached(caches, key)
    files.paths.reverse()
    files.cached(caches)
    assert files.count == 3
    assert len(kept(caches)) == 3


def test_another_keys_file_under_this_name(files, caches):
    files.cached(caches)
    [own] = kept(caches)
    files.write(files.paths[0], b'abcdef')
    other = own.read_bytes()
    files.cached(caches)
    own.write_bytes(other)  # as it was before the change
    assert files.cached(caches)[0, 0, 0, 0] == ord('a')


@pytest.mark.parametrize('content', [b'654321', b'123456'])
def test_a_file_that_was_written_again(files, caches, content):
    """Even with its old time, as archives set it."""
    files.cached(caches)
    files.write(files.paths[1], content)
    assert files.cached(caches)[1].flatten().tolist() == list(content)
    assert files.count == 2
    assert len(kept(caches)) == 1


def test_what_has_just_changed_is_not_kept(files, caches):
    """It could change again within the tick of the clock."""
    Path(files.paths[0]).write_bytes(b'abcdef')
    files.cached(caches)
    assert kept(caches) == []


def test_what_changes_meanwhile_is_not_kept(files, caches):
    decode = files.decode

    def slow():
        images = decode()
        files.write(files.paths[0], b'abcdef')
        return images

    files.decode = slow
    assert files.cached(caches)[0, 0, 0, 0] == ord('1')
    assert kept(caches) == []


def damaged(content):
    """Some of the ways in which a file may have suffered."""
    yield 'nothing in it', b''
    yield 'no footer', content[:12]
    yield 'cut', content[:-1]
    yield 'longer', content + b' '
    yield 'an image more', content[:6] + content
    yield 'footer alone', content[12:]
    yield 'a list', content[:12] + b'[1, 2]'.ljust(FOOTER)
    yield 'no json', content[:12] + b'\xff' * FOOTER
    yield 'empty', content[:12] + b'{}'.ljust(FOOTER)
    for place in range(12):
        bit = bytes([content[place] ^ 1])
        yield f'bit of byte {place}', content[:place] + bit + content[place + 1 :]


def test_a_damaged_file_is_made_again(files, caches):
    expected = files.cached(caches).clone()
    [file] = kept(caches)
    whole = file.read_bytes()
    cases = dict(damaged(whole))
    for number, (name, content) in enumerate(cases.items(), 2):
        file.write_bytes(content)
        assert torch.equal(files.cached(caches), expected), name
        assert files.count == number, name
        assert file.read_bytes() == whole, name


def test_a_disk_that_is_full(files, caches, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', full)
    assert files.cached(caches).shape == (2, 3, 2, 1)
    assert [path.suffix for path in caches.iterdir()] in ([], ['.lock'])


def race(root, folder, line):
    files = Files.__new__(Files)
    files.paths, files.count = [str(root / name) for name in 'ab'], 0
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


def test_who_changes_the_images_changes_no_file(files, caches):
    files.cached(caches).zero_()
    files.cached(caches).zero_()
    assert torch.equal(files.cached(caches), torch.from_numpy(files.decode()))


@pytest.mark.parametrize('place', ['a file', 'no rights'])
def test_where_nothing_can_be_written(files, tmp_path, place, monkeypatch):
    folder = tmp_path / 'place'
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

    monkeypatch.setattr(image_cache.FileLock, 'acquire', refuse)
    files.cached(caches)
    files.cached(caches)
    assert files.count == 1
