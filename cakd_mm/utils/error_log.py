"""Errors in the log file of a run, where they are looked for later."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mmengine.dist import get_rank, get_world_size
from mmengine.logging import MMLogger

from .agreement import host

WRITTEN = 'is_in_log_file'
# As mmengine's lines, without the place: the traceback has it.
LINE = logging.Formatter(
    '%(asctime)s - %(name)s - %(levelname)s - %(message)s', '%Y/%m/%d %H:%M:%S'
)


@contextmanager
def errors_in_log(logger: MMLogger | None = None) -> Iterator[None]:
    """Write the error that ends a part of a program into the run's log file, too.

    Any rank writes, with its number and host, because mmengine gives a log file to the
    first one alone. Where nodes share no disk, each node has such a file. The error is
    raised on, so that the console shows it as ever; an error is written once. What
    somebody has stopped by Ctrl-C ends with that, whatever came of it: mmengine makes
    an error of syntax of it when it formats a config.

    Args:
        logger (MMLogger, optional): The run's logger. Defaults to None, the latest one
            that was made.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        stop = _interrupt_in(error)
        shown = stop or error
        if not vars(shown).get(WRITTEN):
            vars(shown)[WRITTEN] = True
            _write(shown, logger or MMLogger.get_current_instance())
        if stop in (None, error):
            raise
        raise stop from None


def _interrupt_in(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the Ctrl-C that an error came of, or that it is."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def _write(error: BaseException, logger: MMLogger) -> None:
    """Append an error to the log file, if the run has got as far as to have one."""
    if logger.log_file is None:
        return
    trace = (type(error), error, error.__traceback__)
    # Nobody asks where a run was when somebody stopped it.
    is_stopped = isinstance(error, KeyboardInterrupt)
    how = 'was stopped by KeyboardInterrupt.' if is_stopped else 'ended with an error:'
    text = f'Rank {get_rank()} of {get_world_size()} on {host()} {how}'
    record = logger.makeRecord(
        logger.name, logging.ERROR, '', 0, text, (), None if is_stopped else trace
    )
    line = f'{LINE.format(record)}\n'.encode(errors='backslashreplace')
    # Ranks may write at the same time, and one call of the system is not split up.
    # A disk that is full must not hide the error.
    with suppress(OSError), open(logger.log_file, 'ab', buffering=0) as file:
        file.write(line)
