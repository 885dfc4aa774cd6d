"""The error that ends a run is in its log file."""

import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from ranks import two_ranks

from cakd_mm.utils.error_log import errors_in_log

HOST = os.uname().nodename


def logger_of(folder: Path) -> MMLogger:
    return MMLogger.get_instance(folder.name, log_file=str(folder / 'run.log'))


def fail(error: BaseException) -> None:
    with errors_in_log(), errors_in_log():
        raise error


def test_it_is_there_once_with_its_place_and_not_on_the_console(tmp_path, capsys):
    logger = logger_of(tmp_path)
    logger.info('before')
    with pytest.raises(OSError, match='of a hook'):
        fail(OSError('of a hook'))
    before, line, *trace, last = (tmp_path / 'run.log').read_text().splitlines()
    assert line.endswith(
        f' - mmengine - ERROR - Rank 0 of 1 on {HOST} ended with an error:'
    )
    assert trace[0] == 'Traceback (most recent call last):'
    assert '    raise error' in trace
    assert last == 'OSError: of a hook'
    shown = capsys.readouterr()
    assert 'of a hook' not in shown.out + shown.err


def test_that_somebody_stopped_it_is_one_line(tmp_path):
    logger_of(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt())
    [line] = (tmp_path / 'run.log').read_text().splitlines()
    assert line.endswith(f'Rank 0 of 1 on {HOST} was stopped by KeyboardInterrupt.')


def test_what_came_of_stopping_it_is_not_what_ended_it(tmp_path, monkeypatch):
    """mmengine catches everything when it formats a config."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    logger_of(tmp_path)
    for place in ('mmengine.config.config', 'yapf.yapflib.yapf_api'):
        monkeypatch.setattr(f'{place}.FormatCode', stop, raising=False)
    with pytest.raises(KeyboardInterrupt) as caught, errors_in_log(), errors_in_log():
        Config(dict(a=1)).pretty_text  # noqa: B018
    assert caught.value.__suppress_context__  # which is the text of the config
    [line] = (tmp_path / 'run.log').read_text().splitlines()
    assert line.endswith(f'Rank 0 of 1 on {HOST} was stopped by KeyboardInterrupt.')


def test_a_log_that_cannot_be_written_hides_no_error(tmp_path):
    logger = logger_of(tmp_path)
    logger._log_file = str(tmp_path)
    with pytest.raises(KeyError):
        fail(KeyError())
    logger._log_file = None  # before the run has one
    with pytest.raises(KeyError):
        fail(KeyError())


def test_every_rank_writes_into_the_file_of_its_disk(tmp_path):
    def work(rank: int) -> None:
        for folder in (tmp_path / 'shared', tmp_path / f'own{rank}'):
            folder.mkdir(exist_ok=True)
            logger_of(folder)  # of which the first rank's empties the file
            torch.distributed.barrier()
            with pytest.raises(RuntimeError):
                fail(RuntimeError(f'of {rank}, \udcff'))

    two_ranks(work, tmp_path)
    shared = (tmp_path / 'shared/run.log').read_text()
    for rank in range(2):
        line = f'Rank {rank} of 2 on {HOST} ended with an error:'
        own = (tmp_path / f'own{rank}/run.log').read_text()
        for text in (shared, own):
            assert line in text
            assert f'\nRuntimeError: of {rank}, \\udcff\n' in text
        assert f'Rank {1 - rank} ' not in own
