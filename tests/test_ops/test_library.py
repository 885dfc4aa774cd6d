"""How the kernels are built, kept and done without."""

import os
import shutil
import stat
import subprocess
import sys

import pytest

from cakd_mm import ops
from cakd_mm.ops import library as building

USE = """
import torch, cakd_mm
from cakd_mm import ops
print('AVAILABLE', ops.available())
if ops.available():
    print('MASK', ops.strongest(torch.tensor([[1., 3., 2.]]), 1).tolist())
"""


@pytest.fixture
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return tmp_path / 'cakd_mm'


@pytest.fixture
def fresh(monkeypatch):
    """Ask again, as a new process would."""
    monkeypatch.setattr(building, '_once', building._once.__wrapped__)
    monkeypatch.setattr(building, '_say', building._say.__wrapped__)
    said = []
    monkeypatch.setattr(building, 'print_log', lambda text, *_: said.append(text))
    return said


def counting_compiler(folder):
    """A compiler that notes each build."""
    script = folder / 'compiler'
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/calls\nexec {shutil.which("c++")} "$@"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def builds(folder):
    calls = (folder / 'calls').read_text().splitlines()
    return sum('-shared' in call for call in calls)


def test_built_once_and_kept(caches, fresh, tmp_path, monkeypatch):
    monkeypatch.setenv('CXX', str(counting_compiler(tmp_path)))
    for _ in range(3):
        assert building.library().cakd_clusters
    assert builds(tmp_path) == 1
    [kept] = caches.iterdir()
    assert kept.name.startswith('native-')
    assert not fresh


def test_other_sources_flags_and_processors_have_files_of_their_own(
    caches, fresh, monkeypatch
):
    building.library()
    monkeypatch.setattr(building, 'FLAGS', building.FLAGS.replace('-O3', '-O1'))
    building.library()
    monkeypatch.setattr(building, 'cpuinfo', lambda: dict(flags='none'))
    building.library()
    assert len(list(caches.iterdir())) == 3


def test_a_cache_that_cannot_be_written_is_done_without(fresh, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert building.library().cakd_clusters
    monkeypatch.setattr(building, 'cache_folder', lambda _: None)
    assert building.library().cakd_clusters


def test_a_damaged_file_is_made_again(caches, fresh, tmp_path, monkeypatch):
    monkeypatch.setenv('CXX', str(counting_compiler(tmp_path)))
    building.library()
    [kept] = caches.iterdir()
    # Elsewhere, since a loader knows what it has loaded by its name.
    damaged = tmp_path / 'other' / 'cakd_mm' / kept.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b'no library')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'other'))
    assert building.library().cakd_clusters
    assert builds(tmp_path) == 2
    assert damaged.read_bytes()[:4] == b'\x7fELF'


def test_a_folder_that_forbids_execution_is_made_up_for(caches, fresh, monkeypatch):
    loaded = []

    def load(path, own=building._load):
        loaded.append(path.parent)
        if path.parent == caches:
            raise OSError('failed to map segment from shared object')
        return own(path)

    monkeypatch.setattr(building, '_load', load)
    assert building.library().cakd_clusters
    assert len(loaded) == 3 and loaded[:2] == [caches, caches]


@pytest.mark.parametrize('compiler', ['/nowhere/c++', 'false', "c++ 'unclosed"])
def test_without_a_compiler(compiler, caches, fresh, monkeypatch):
    monkeypatch.setenv('CXX', compiler)
    with pytest.raises(ops.BuildError, match='the C\\+\\+ compiler or loader says'):
        building.library()
    assert not building.available()
    assert len(fresh) == 1
    assert 'Resident data goes without native kernels' in fresh[0]


def test_an_error_of_the_compiler_is_passed_on(caches, fresh, tmp_path, monkeypatch):
    wrong = tmp_path / 'wrong.cpp'
    wrong.write_text('this is no program')
    monkeypatch.setattr(building, 'SOURCES', [wrong])
    with pytest.raises(ops.BuildError, match='wrong.cpp.*error'):
        building.library()


def test_several_processes_at_once(caches):
    environment = dict(os.environ, XDG_CACHE_HOME=str(caches.parent))
    command = [sys.executable, '-W', 'ignore', '-c', USE]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in running:
        told, _ = process.communicate()
        assert process.returncode == 0
        assert 'AVAILABLE True' in told
        assert 'MASK [[False, True, False]]' in told
    assert len(list(caches.iterdir())) == 1


def test_every_kernel_has_a_signature():
    named = set()
    for source in building.SOURCES:
        text = source.read_text('utf-8')
        exported = text[text.index('extern "C"') :]
        named |= {
            word.split('(')[0]
            for word in exported.split()
            if word.startswith('cakd_') and '(' in word
        }
    assert named == set(building.SIGNATURES)
    for name, kinds in building.SIGNATURES.items():
        assert getattr(ops.library.library(), name).argtypes == kinds
