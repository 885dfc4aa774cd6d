"""What a run writes where a person reads along."""

import logging
import os
import sys
from pathlib import Path

import mmengine
from mmengine.dist import is_main_process
from rich.console import Console
from termcolor import colored

# Log lines of these folders of mmengine are about the run as a whole (environment,
# config, order of hooks), and about its steps and files.
ABOUT_RUN = str(Path(mmengine.__file__).parent / 'runner')
ABOUT_STEPS = str(Path(mmengine.__file__).parent / 'hooks')


class Terminal(Console):
    """A console on stdout that breaks no line.

    Its cursor stays visible, because a process that is killed could not bring it back.
    """

    def __init__(self) -> None:
        super().__init__(soft_wrap=True, highlight=False, markup=False, emoji=False)

    def show_cursor(self, show: bool = True) -> bool:
        """Leave the cursor as it is."""
        return False


def is_read_along() -> bool:
    """Return whether stdout is a terminal that can redraw a line, on the first rank.

    A file, a pipe, a dumb terminal and an interactive interpreter get plain lines.
    """
    return (
        sys.stdout is not None  # as it is where it is closed
        and sys.stdout.isatty()
        and os.environ.get('TERM', 'dumb') not in ('dumb', 'unknown')
        and not hasattr(sys, 'ps1')
        and is_main_process()
    )


def stream_handlers(logger: logging.Logger) -> list[logging.StreamHandler]:
    """Return the handlers that write to the terminal, and not those of files."""
    return [
        handler
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler)
        and not isinstance(handler, logging.FileHandler)
    ]


def show_briefly(logger: logging.Logger) -> None:
    """Let a terminal have a run's messages alone; the log file keeps all of it.

    mmengine's lines about environment, config and hooks are hundreds. The time of day
    and the name of the logger are left out.
    """
    for handler in stream_handlers(logger):
        handler.addFilter(lambda record: not is_from(record, ABOUT_RUN))
        handler.setFormatter(_Message())


def is_from(record: logging.LogRecord, folder: str) -> bool:
    """Return whether a record is mere information of a folder's code."""
    return record.levelno == logging.INFO and record.pathname.startswith(folder)


class _Message(logging.Formatter):
    """The message, and its level if that is no mere information."""

    COLOURS = {logging.WARNING: 'yellow', logging.ERROR: 'red'}

    def format(self, record: logging.LogRecord) -> str:
        """Return the message of a record."""
        text = super().format(record)
        if record.levelno == logging.INFO:
            return text
        level = record.levelname.capitalize()
        colour = self.COLOURS.get(record.levelno)
        return f'{colored(level, colour) if colour else level}: {text}'


def shown(path: str | os.PathLike) -> str:
    """Return a path as a person would type it in the current folder."""
    path = Path(path).absolute()
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
