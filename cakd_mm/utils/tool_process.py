"""How the process of a tool begins, and how it ends when it fails."""

import json
import os
import sys
import time
import traceback
from types import TracebackType

from mmengine.logging import MMLogger

from .agreement import is_of_waiting
from .error_log import WRITTEN
from .errors import Description
from .tools import use_utf8

# A variable of the environment that shows the traceback of a user's error, too.
TRACEBACK = 'CAKD_MM_TRACEBACK'
# Where torchrun reads why a rank has failed.
TORCHRUNS_FILE = 'TORCHELASTIC_ERROR_FILE'
# Under which a message of a DataLoader has the traceback of its worker.
OF_WORKER = 'Original Traceback (most recent call last)'


def start_tool() -> None:
    """Use UTF-8, and let an error that ends the process end with its cause.

    Every tool calls this first; see :func:`cakd_mm.utils.tools.use_utf8`.
    """
    use_utf8()
    sys.excepthook = show_error


def show_error(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Show why the process ends, with the cause in the last line.

    An error that its user can mend is shown without the places in our code. These are
    in the log file of the run, if it had one yet, and ``CAKD_MM_TRACEBACK=1`` shows
    them. Any other error has its traceback. torchrun, if it has started this process,
    is told the cause as well.
    """
    cause = cause_of(error)
    if isinstance(error, KeyboardInterrupt):
        print(f'\n{cause}', file=sys.stderr)
        return
    lines = []
    if not is_of_user(error) or os.environ.get(TRACEBACK):
        lines = traceback.format_exception(kind, error, trace)
    elif vars(error).get(WRITTEN):
        log = MMLogger.get_current_instance().log_file
        lines = [f'The traceback is in {log}.\n'] if log else []
    last = ''.join(lines).rstrip().rpartition('\n')[-1]
    if cause != last and OF_WORKER not in str(error):
        lines.append(f'{cause}\n')
    sys.stderr.write(''.join(lines))
    _tell_torchrun(error, cause)


def cause_of(error: BaseException) -> str:
    """Return why a process ends in one line."""
    if isinstance(error, KeyboardInterrupt):
        return 'Stopped by Ctrl-C.'
    if is_of_user(error):
        text = error.args[0] if isinstance(error, KeyError) else error
        return f'Error: {" ".join(str(text).split())}'
    lines = traceback.format_exception_only(type(error), error)
    return ''.join(lines).partition('\n')[0].rstrip()


def is_of_user(error: BaseException) -> bool:
    """Return whether an error says what its user has to write.

    mmengine raises an error of a class that it builds again, with its text in another
    one.
    """
    cause: BaseException | None = error
    while cause is not None:
        text = next(iter(cause.args), None)
        if isinstance(text, Description) and text in str(error.args[0]):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _tell_torchrun(error: BaseException, cause: str) -> None:
    """Write the cause where torchrun looks for it, in the form that it reads."""
    file = os.environ.get(TORCHRUNS_FILE)
    if file:
        extra = dict(
            py_callstack=cause,
            timestamp=str(int(time.time())),
            # tools/torchrun.py looks for a rank that has not waited for another one.
            waited=is_of_waiting(error),
        )
        message = dict(message=cause, extraInfo=extra)
        with open(file, 'w', encoding='utf-8') as stream:
            json.dump(dict(message=message), stream)
