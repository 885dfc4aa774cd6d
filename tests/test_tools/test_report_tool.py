"""The command line that writes a report."""

import sys

import pytest
from report_runs import PLAIN, make_run
from tools_inside import run_tool


@pytest.fixture
def write(monkeypatch, tmp_path, capsys):
    """Run the tool in a folder, and return what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        run_tool(monkeypatch, 'analysis_tools/report.py', *arguments)
        return capsys.readouterr().out

    return run


def test_where_it_is_written(write, tmp_path):
    make_run(tmp_path / 'my runs/one', PLAIN, [50.0])
    for words, name in (
        ((), 'report.html'),
        (('--out', 'new/mine.html'), 'new/mine.html'),
        (('--out', 'a folder'), 'a folder/report.html'),
    ):
        printed = write('my runs', *words)
        assert f'wrote {name}: open it in a browser' in printed
        text = (tmp_path / name).read_text(encoding='utf-8')
        assert text.startswith('<!DOCTYPE html>') and 'Plotly.newPlot' in text


def test_wrong_arguments(write, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match='work dir of tools/train.py'):
        write('.')
    make_run(tmp_path / 'one', PLAIN, [50.0])
    with pytest.raises(SystemExit):
        write('one', '--images', '-1')
    assert '--images -1: it counts images; write 1000, say' in capsys.readouterr().err


def test_plotly_is_missing(write, tmp_path, monkeypatch):
    from cakd_mm.visualization.report import page

    page.plotly.cache_clear()
    monkeypatch.setitem(sys.modules, 'plotly.offline', None)
    make_run(tmp_path / 'one', PLAIN, [50.0])
    with pytest.raises(ModuleNotFoundError, match='Run `pip install plotly`'):
        write('one')
    assert not list(tmp_path.glob('*.html'))
