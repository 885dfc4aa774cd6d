"""How a tool ends that fails: with the cause in its last line."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.logging import MMLogger
from torch.distributed.elastic.multiprocessing.errors import (
    ChildFailedError,
    ProcessFailure,
)

from cakd_mm.utils import tool_process
from cakd_mm.utils.agreement import OtherRankError
from cakd_mm.utils.error_log import WRITTEN
from cakd_mm.utils.errors import describe
from cakd_mm.utils.tools import tool

TEXT = describe('model.x', 3, 'It is\n  odd.', 'Write 4.')
LINE = 'Error: `model.x` = 3: It is odd. Write 4.'


def rebuilt() -> None:
    """As mmengine raises the error of a class that it builds."""
    try:
        raise ValueError(TEXT)
    except ValueError as error:
        raise ValueError(f'class `X` in x.py: {error}') from None


def in_worker() -> None:
    trace = 'Original Traceback (most recent call last):\n  File "x.py"\n'
    raise OSError(f'Caught OSError in DataLoader worker.\n{trace}OSError: of a file')


def failing(error: BaseException):
    def fail() -> None:
        raise error

    return fail


@pytest.fixture
def ended(capsys, monkeypatch):
    """Return what a process shows that a function ends by its error."""
    monkeypatch.delenv('TORCHELASTIC_ERROR_FILE', raising=False)

    def end(function) -> list[str]:
        with pytest.raises(BaseException) as caught:
            function()
        error = caught.value
        tool_process.show_error(type(error), error, error.__traceback__)
        return capsys.readouterr().err.splitlines()

    return end


@pytest.mark.parametrize('kind', [ValueError, KeyError, FileNotFoundError])
def test_a_users_error_is_one_line(ended, monkeypatch, kind):
    assert ended(failing(kind(TEXT))) == [LINE]
    monkeypatch.setenv('CAKD_MM_TRACEBACK', '1')
    first, *_, last = ended(failing(kind(TEXT)))
    assert (first, last) == ('Traceback (most recent call last):', LINE)


def test_a_users_error_in_other_words(ended):
    rest = LINE.removeprefix('Error: ')
    assert ended(rebuilt) == [f'Error: class `X` in x.py: {rest}']


@pytest.mark.parametrize('file', ['a.log', None])
def test_the_log_that_has_the_traceback_is_named(ended, monkeypatch, file):
    logger = SimpleNamespace(log_file=file)
    monkeypatch.setattr(MMLogger, 'get_current_instance', lambda: logger)
    error = ValueError(TEXT)
    vars(error)[WRITTEN] = True
    *first, last = ended(failing(error))
    assert first == ([] if file is None else ['The traceback is in a.log.'])
    assert last == LINE


@pytest.mark.parametrize(
    ('function', 'last'),
    [
        (failing(RuntimeError('short')), 'RuntimeError: short'),
        (failing(RuntimeError('keys do\n not fit:\n a')), 'RuntimeError: keys do'),
        (failing(OSError()), 'OSError'),
        (in_worker, 'OSError: of a file'),
    ],
)
def test_another_error_has_its_traceback_and_ends_with_its_cause(ended, function, last):
    lines = ended(function)
    assert lines[0] == 'Traceback (most recent call last):'
    assert lines[-1] == last
    assert lines.count(last) <= 2


def test_ctrl_c_is_no_error(ended):
    assert ended(failing(KeyboardInterrupt())) == ['', 'Stopped by Ctrl-C.']


def test_torchrun_ends_with_the_rank_that_has_not_waited(ended, monkeypatch, tmp_path):
    failures = {}
    errors = (OtherRankError('Another rank has failed'), ValueError(TEXT), None, None)
    for rank, error in enumerate(errors):
        file = tmp_path / f'{rank}.json'
        monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(file))
        if error is not None:
            ended(failing(error))
            content = json.loads(file.read_text())
            content['message']['extraInfo']['timestamp'] = str(100 + rank)
            file.write_text(json.dumps(content))
        code = -9 if rank == 2 else 1
        failures[rank] = ProcessFailure(rank, 1, code, str(file))
    monkeypatch.syspath_prepend(str(tool('train.py').parent))
    from torchrun import cause

    own = ChildFailedError('train.py', {rank: failures[rank] for rank in (0, 1, 2, 3)})
    assert cause(own) == f'Rank 1: {LINE}'
    killed = ChildFailedError('train.py', {rank: failures[rank] for rank in (0, 2)})
    assert cause(killed) == 'Rank 2: Signal 9 (SIGKILL) received by PID 1'
    left = ChildFailedError('train.py', {3: failures[3]})
    assert cause(left) == 'Rank 3: It has ended with status 1, see above.'


def test_the_shell_scripts_start_that_torchrun():
    for name in ('dist_train.sh', 'dist_test.sh'):
        assert '"$(dirname "$0")/torchrun.py" \\\n' in tool(name).read_text()
    assert (Path(tool('torchrun.py'))).is_file()
    assert 'cakd_mm' not in sys.modules.get('torchrun').__dict__
