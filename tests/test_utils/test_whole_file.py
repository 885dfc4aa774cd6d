import errno
import multiprocessing
import os
import signal

import pytest

from cakd_mm.utils.whole_file import whole_file, write_whole


def test_the_content_and_nothing_else(tmp_path):
    path = tmp_path / 'a.txt'
    for content in (b'first', b'second, longer'):
        write_whole(path, content)
        assert path.read_bytes() == content
        assert [*tmp_path.iterdir()] == [path]


def test_rights(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / 'a', b'')
        with whole_file(tmp_path / 'b', mode=0o600):
            pass
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in 'ab']
    assert modes == [0o640, 0o600]


def test_what_fails_leaves_the_former(tmp_path):
    path = tmp_path / 'a'
    write_whole(path, b'former')
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write(b'half of')
        raise KeyboardInterrupt
    assert path.read_bytes() == b'former'
    assert [*tmp_path.iterdir()] == [path]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    path = tmp_path / 'epoch_2.pth'
    write_whole(path, b'former')
    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match=f'No space left on device: {str(path)!r}'):
        write_whole(path, b'new')
    assert path.read_bytes() == b'former'
    assert [*tmp_path.iterdir()] == [path]


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    other, path = tmp_path / 'other', tmp_path / 'a'
    other.write_bytes(b'of somebody else')
    path.symlink_to(other)
    write_whole(path, b'mine')
    assert not path.is_symlink()
    assert other.read_bytes() == b'of somebody else'


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize('call', ['fsync', 'replace'])
def test_a_kill_leaves_the_former_and_one_part_at_most(tmp_path, monkeypatch, call):
    path = tmp_path / 'a'
    write_whole(path, b'former')
    monkeypatch.setattr(os, call, die)
    for content in (b'x' * 100, b'y'):  # the second part is the shorter one
        process = multiprocessing.get_context('fork').Process(
            target=write_whole, args=(path, content)
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert path.read_bytes() == b'former'
        assert sorted(x.name for x in tmp_path.iterdir()) == ['a', 'a.part']
    monkeypatch.undo()
    write_whole(path, b'latter')
    assert path.read_bytes() == b'latter'
    assert [*tmp_path.iterdir()] == [path]


def test_it_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    calls, names = [], dict(fsync=os.fsync, replace=os.replace)
    for name, function in names.items():

        def note(*args, name=name, function=function):
            calls.append(name)
            return function(*args)

        monkeypatch.setattr(os, name, note)
    write_whole(tmp_path / 'a', b'content')
    assert calls == ['fsync', 'replace', 'fsync']
