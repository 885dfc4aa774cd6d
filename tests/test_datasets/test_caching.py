import io
import os
import pickle
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


class Bomb:
    """Leaves a trace if it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def put(file, content):
    """Write a file as another program would."""
    file.write_bytes(content)
    file.chmod(0o600)


def damages(whole, trace):
    """Yield ways in which a file may have suffered: a name and what does it."""
    contents = {
        'nothing in it': b'',
        'no cache': b'\xff' * len(whole),
        'only lines': b'\n' * len(whole),
        'longer': whole + b'0',
        'twice': 2 * whole,
        'a pickle': pickle.dumps(Bomb(trace)),
        'a torch file': saved(Bomb(trace)),
        'zeros': bytes(len(whole)),
        'another shape': whole.replace(b'[2, 3, 2, 1]', b'[3, 2, 2, 1]'),
    }
    for place in range(0, len(whole), len(whole) // 8):
        contents[f'cut at {place}'] = whole[:place]
    starts = [whole.index(b'\n'), whole.index(b'123456' * 2)]
    for place in (
        0,
        5,
        *range(starts[0], starts[0] + 3),
        *range(starts[1], len(whole)),
    ):
        bit = bytes([whole[place] ^ 1])
        contents[f'bit of byte {place}'] = whole[:place] + bit + whole[place + 1 :]
    for name, content in contents.items():
        yield name, lambda file, content=content: put(file, content)
    yield 'missing', Path.unlink
    for mode in (0o000, 0o620, 0o602, 0o666, 0o777):
        yield f'mode {mode:o}', lambda file, mode=mode: file.chmod(mode)

    def link(file, content=whole):
        other = file.with_name('other')
        put(other, content)
        file.unlink()
        file.symlink_to(other)

    yield 'a link to itself as it was', link
    yield 'a link to another file', lambda file: link(file, b'of somebody else')

    def pipe(file):
        file.unlink()
        os.mkfifo(file)

    yield 'a pipe', pipe


def saved(what):
    file = io.BytesIO()
    torch.save(what, file)
    return file.getvalue()


def test_a_damaged_file_is_made_again(files, caches, tmp_path):
    expected = files.cached(caches).clone()
    [file] = cache_files(caches)
    whole, trace = file.read_bytes(), tmp_path / 'trace'
    cases = dict(damages(whole, trace))
    assert len(cases) >= 40
    for name, damage in cases.items():
        before = files.count
        damage(file)
        assert torch.equal(files.cached(caches), expected), name
        seen_by_root = name == 'mode 0' and os.geteuid() == 0
        assert files.count == before + (not seen_by_root), name
        assert torch.equal(files.cached(caches), expected), name
        assert files.count == before + (not seen_by_root), f'{name}: not rebuilt'
        assert file.read_bytes() == whole
        if not seen_by_root:
            assert file.lstat().st_mode == 0o100600, name
        file.chmod(0o600)
    assert not trace.exists()
    assert (caches / 'other').read_bytes() == b'of somebody else'


@pytest.fixture
def warned(monkeypatch):
    texts = []
    monkeypatch.setattr(caching, 'print_log', lambda text, *_: texts.append(text))
    monkeypatch.setattr(caching, '_WARNED', set())
    return texts


@pytest.mark.parametrize('whose', ['written by all', 'another user'])
def test_a_folder_that_is_not_mine_alone_is_not_used(
    files, caches, warned, monkeypatch, whose
):
    files.cached(caches)
    [file] = cache_files(caches)
    before = file.stat()
    if whose == 'another user':
        me = os.geteuid()
        monkeypatch.setattr(os, 'geteuid', lambda: me + 1)
        remedy = 'Name a folder of your own.'
    else:
        caches.chmod(0o777)
        remedy = f'Type chmod go-w {caches}.'
    for _ in range(2):
        assert files.cached(caches).shape == (2, 3, 2, 1)
    assert files.count == 3
    assert file.stat() == before
    [text] = warned
    assert text.startswith(f'`cache_dir` = {str(caches)!r}: ')
    assert text.endswith(remedy)


def test_a_file_that_others_could_write_is_told_once(files, caches, warned):
    files.cached(caches)
    [file] = cache_files(caches)
    for _ in range(2):
        file.chmod(0o666)
        files.cached(caches)
    assert files.count == 3
    [text] = warned
    assert f'chmod go-w {file}' in text


def test_all_is_made_for_this_user_alone(files, caches):
    before = os.umask(0o002)  # as many systems set it
    try:
        for _ in range(2):
            files.cached(caches)
    finally:
        os.umask(before)
    assert files.count == 1
    assert caches.stat().st_mode & 0o777 == 0o700


def test_what_a_kill_leaves_is_overwritten(files, caches, monkeypatch):
    class KilledError(BaseException):
        pass

    def die(*_):
        raise KilledError

    monkeypatch.setattr(os, 'replace', die)
    monkeypatch.setattr(Path, 'unlink', lambda *_, **__: None)  # it is dead
    for _ in range(3):
        with pytest.raises(KilledError):
            files.cached(caches)
        assert len([*caches.glob('*.part')]) == 1
    monkeypatch.undo()
    files.cached(caches)
    assert {path.suffix for path in caches.iterdir()} == {'.bin', '.lock'}


def test_a_mapped_file_that_is_cut_is_an_error(files, caches):
    """To read it would end the process with SIGBUS."""
    for _ in range(2):
        kept = cached_images(caches, ['k', 1], files.paths, files.decode)
    kept.watch.check()
    [file] = cache_files(caches)
    copied = pickle.loads(pickle.dumps(kept))
    os.truncate(file, 50)
    with pytest.raises(OSError, match=f"`cache_dir` = '{file}': .* cut") as caught:
        kept.watch.check()
    assert '--resume' in str(caught.value)
    copied.watch.check()
    assert torch.equal(copied.data, torch.from_numpy(files.decode()))
    again = cached_images(caches, ['k', 1], files.paths, files.decode)
    file.unlink()  # what is open stays whole
    again.watch.check()


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
