"""The tools: where they are, and how they are called where somebody stands."""

import sys

import pytest

from cakd_mm.utils import tools
from cakd_mm.utils.tools import (
    COMMANDS,
    add_research,
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
