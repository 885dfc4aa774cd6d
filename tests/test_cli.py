"""``cakd-mm COMMAND``: each tool by a short name."""

import sys
from importlib.metadata import entry_points

import pytest

from cakd_mm import cli
from cakd_mm.utils.tools import COMMANDS, tool


def test_it_is_installed():
    (script,) = entry_points(group='console_scripts', name='cakd-mm')
    assert script.load() is cli.main


RESEARCH = tool('reproduce.py').resolve().parents[1] / 'research'


@pytest.mark.parametrize('command', COMMANDS)
def test_each_command_is_its_tool(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, '--help'])
    if command == 'reproduce' and not RESEARCH.is_dir():  # installed from the wheel
        assert str(end.value).startswith('reproduce.py needs a clone of the repository')
        return
    assert end.value.code == 0
    assert COMMANDS[command].rpartition('/')[2] in capsys.readouterr().out


def test_arguments_reach_a_script(tmp_path, capsys, monkeypatch):
    """Also one of the user's own; the package has been imported before."""
    script = tmp_path / 'own.py'
    monkeypatch.setattr(sys, 'path', [*sys.path])
    monkeypatch.setattr(sys, 'argv', sys.argv)
    (tmp_path / 'beside_own.py').write_text('')
    script.write_text(
        'import sys, beside_own\n'
        'assert "cakd_mm" in sys.modules\n'
        'print(sys.argv[1:], __name__)\n'
    )
    cli.main(['run', str(script), 'a', '--b', 'c'])
    assert capsys.readouterr().out == "['a', '--b', 'c'] __main__\n"


def test_the_process_s_own_arguments(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['cakd-mm'])
    cli.main()
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


def test_an_unknown_command():
    with pytest.raises(SystemExit, match="no command 'trian'.*'train'"):
        cli.main(['trian'])


def test_run_without_a_script():
    with pytest.raises(SystemExit, match='cakd-mm run: which script'):
        cli.main(['run'])
