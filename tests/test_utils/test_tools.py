"""The tools: where they are, and how they are called where somebody stands."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cakd_mm.utils import tools
from cakd_mm.utils.tools import (
    COMMANDS,
    add_research,
    as_argument,
    as_typed_here,
    other_copy,
    tool,
)


def test_the_tools_of_a_checkout(root):
    for name in COMMANDS.values():
        assert tool(name) == root / 'tools' / name
        assert tool(name).is_file()


def test_the_installed_tool_where_there_is_no_checkout(monkeypatch, tmp_path):
    package = tmp_path / 'site-packages' / 'cakd_mm'
    monkeypatch.setattr(tools, 'PACKAGE', package)
    assert tool('train.py') == package / '.mim' / 'tools' / 'train.py'


TRAIN = 'python tools/train.py configs/vanilla/resnet20_digits.py'
CONVERT = (
    'python tools/model_converters/from_torchvision.py IMAGENET1K_V1 '
    'checkpoints/resnet34.pth --arch resnet34'
)


def test_commands_stay_in_a_checkout(monkeypatch, root):
    monkeypatch.chdir(root)
    assert as_typed_here(TRAIN) == TRAIN


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        (TRAIN, 'cakd-mm train cakd_mm::vanilla/resnet20_digits.py'),
        (
            CONVERT,
            'cakd-mm from-torchvision IMAGENET1K_V1 checkpoints/resnet34.pth '
            '--arch resnet34',
        ),
        ('python other.py my/configs/x.txt', 'python other.py my/configs/x.txt'),
    ],
)
def test_commands_elsewhere(monkeypatch, tmp_path, root, text, expected):
    monkeypatch.chdir(tmp_path)
    both = f'{text} (in {root}; in this folder: {expected})'
    assert as_typed_here(text) == (both if text != expected else text)
    monkeypatch.setattr(tools, 'PACKAGE', tmp_path / 'site-packages' / 'cakd_mm')
    assert as_typed_here(text) == expected


def test_another_copy(tmp_path, root):
    assert other_copy(str(root / 'tools' / 'train.py')) is None
    assert other_copy(str(root / 'cakd_mm/.mim/tools/train.py')) is None
    assert other_copy(str(root / 'tools/analysis_tools/plot_cakd.py')) is None
    assert other_copy(str(tmp_path / 'train.py')) is None
    beside = tmp_path / 'cakd_mm'
    beside.mkdir()
    (beside / '__init__.py').touch()
    assert other_copy(str(tmp_path / 'train.py')) is None  # a script of their own
    assert other_copy(str(tmp_path / 'tools' / 'train.py')) == beside
    assert other_copy(str(tmp_path / 'tools/analysis_tools/x.py')) == beside


def test_research_is_that_of_the_clone_whose_code_runs(tmp_path, monkeypatch, root):
    monkeypatch.setattr(sys, 'path', ['first'])
    add_research(str(root / 'tools' / 'analysis_tools' / 'compare_gradients.py'))
    assert sys.path == [str(root), 'first']
    script = tmp_path / 'tools' / 'reproduce.py'
    with pytest.raises(
        SystemExit, match=r'reproduce\.py needs a clone.*pip install -e'
    ):
        add_research(str(script))
    (tmp_path / 'research').mkdir()
    (tmp_path / 'research' / '__init__.py').touch()
    with pytest.raises(SystemExit, match=f"would train with .*'{tmp_path}.current.'"):
        add_research(str(script))
    assert sys.path == [str(root), 'first']


# What a locale's encoding decides: arguments, output, files, and the same in a child.
UTF8 = """
import runpy, subprocess, sys
runpy.run_path(sys.argv[1])['use_utf8']()
print(sys.argv[2], '\\u2588', flush=True)
with open(sys.argv[2], 'a') as file:
    file.write('\\u2588')
if len(sys.argv) == 3:
    subprocess.run([sys.executable, *sys.orig_argv[1:], 'child'], check=True)
"""


@pytest.mark.parametrize(
    ('variables', 'said'),
    [
        (dict(LC_ALL='C'), 'é █'),
        (dict(LC_ALL='POSIX', PYTHONIOENCODING='ascii'), r'\xe9 \u2588'),
    ],
)
def test_a_locale_without_utf8(tmp_path, variables, said):
    environment = {k: v for k, v in os.environ.items() if not k.startswith('LC_')}
    environment |= dict(PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', **variables)
    done = subprocess.run(
        [sys.executable, '-c', UTF8, tools.__file__, 'é'],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
    )
    assert done.stderr == b''
    assert done.stdout.decode() == f'{said}\n' * 2
    assert (tmp_path / 'é').read_text(encoding='utf-8') == '██'


def test_every_tool_starts_as_one(root):
    for script in (root / 'tools').rglob('*.py'):
        if script.name == 'torchrun.py':  # which starts tools
            continue
        *_, main = ast.parse(script.read_text(encoding='utf-8')).body
        assert [ast.unparse(x) for x in main.body] == ['start_tool()', 'main()'], script


def test_no_path_is_an_option():
    assert as_argument(Path('-a/b')) == './-a/b'
    assert as_argument(Path('/-a')) == '/-a'
