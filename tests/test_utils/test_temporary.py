import multiprocessing
import os
import signal
import tempfile
from pathlib import Path

import pytest
from mmengine.config import Config

from cakd_mm.utils.temporary import swept_temporary_folder


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The system's temporary folder."""
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    return tmp_path


def test_it_is_gone_afterwards_and_nested_ones_share_it(folder):
    with swept_temporary_folder():
        inner = tempfile.gettempdir()
        assert Path(inner).parent == folder
        with swept_temporary_folder():
            assert tempfile.gettempdir() == inner
            Path(tempfile.mkdtemp(), 'file').touch()
        assert tempfile.gettempdir() == inner
    assert tempfile.gettempdir() == str(folder)
    assert [*folder.iterdir()] == []


def killed(line):
    with swept_temporary_folder():
        Path(tempfile.mkdtemp(), 'file').touch()
        line.wait()
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_kill_leaves_is_removed_once_it_is_dead(folder):
    context = multiprocessing.get_context('fork')
    line = context.Barrier(2)
    process = context.Process(target=killed, args=(line,))
    process.start()
    while not [*folder.glob('*/*/file')]:
        assert process.is_alive()
    [left] = folder.iterdir()
    with swept_temporary_folder():
        assert left.exists()  # It is in use.
    line.wait()
    process.join()
    with swept_temporary_folder():
        assert not left.exists()


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(folder, monkeypatch):
    make, made = tempfile.mkdtemp, []

    def make_and_lose(**names):
        made.append(make(**names))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(tempfile, 'mkdtemp', make_and_lose)
    with swept_temporary_folder():
        assert tempfile.gettempdir() == made[1]
    assert [*folder.iterdir()] == []


def test_configs_are_read_in_it(folder, tmp_path):
    """In mmengine's own folders, of which a kill would leave some."""
    config = tmp_path / 'config.py'
    # An import would make it a config of the new style, whose imports are lazy.
    config.write_text("place = __import__('tempfile').gettempdir()\n")
    place = Path(Config.fromfile(config).place)
    assert place.parent == folder
    assert not place.exists()
