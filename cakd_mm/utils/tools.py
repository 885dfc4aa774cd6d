"""The place of the command-line tools and the commands that call them here."""

import codecs
import io
import locale
import os
import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

# Short names of the tools, for users without a checkout: `cakd-mm train CONFIG`.
COMMANDS = {
    'distill': 'distill.py',
    'train': 'train.py',
    'test': 'test.py',
    'extract': 'model_converters/extract_student.py',
    'export': 'deployment/export_student.py',
    'plot': 'analysis_tools/plot_cakd.py',
    'report': 'analysis_tools/report.py',
    'reproduce': 'reproduce.py',
    'demo': 'demo.py',
    'from-torchvision': 'model_converters/from_torchvision.py',
    'from-repdistiller': 'model_converters/from_repdistiller.py',
    'statistics': 'dataset_tools/measure_statistics.py',
}


def use_utf8() -> None:
    """Let a tool, and the processes it starts, use UTF-8 whatever the locale is.

    Python learns at its start how to read arguments and to write files, so that the
    process begins anew if that is not UTF-8. A character that the terminal does not
    have is printed as an escape. Every tool calls this first; it must not be called
    where something has been done that would be lost.
    """
    encoding = codecs.lookup(locale.getpreferredencoding(False)).name
    if encoding != 'utf-8' and os.environ.get('PYTHONUTF8') != '1':
        os.environ['PYTHONUTF8'] = '1'
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')


def as_argument(path: Path) -> str:
    """Return a path as the word of a command, which no dash may begin."""
    return f'./{path}' if str(path).startswith('-') else str(path)


def tool(name: str) -> Path:
    """Return the path of a command-line tool in the checkout, or else installed."""
    checkout = PACKAGE.parent / 'tools' / name
    return checkout if checkout.is_file() else PACKAGE / '.mim' / 'tools' / name


def add_research(script: str) -> None:
    """Make ``research`` importable, which only a clone has, beside its tools.

    Args:
        script (str): The ``__file__`` of the tool that needs it.

    Raises:
        SystemExit: the tool is not in a clone, or the imported package is not the one
            of that clone.
    """
    path = Path(script).resolve()
    root = next(x.parent for x in path.parents if x.name == 'tools')
    if not (root / 'research' / '__init__.py').is_file():
        raise SystemExit(
            f'{path.name} needs a clone of the repository, because its folder '
            'research/ is not part of the installed package. Clone it, and run there '
            f"`pip install -e '.[current]'` and `python {path.relative_to(root)} ...`."
        )
    if not root.samefile(PACKAGE.parent):
        raise SystemExit(
            f'{path} would train with the code of {PACKAGE}. Run '
            f"`pip install -e '{root}[current]'` first."
        )
    sys.path.insert(0, str(root))


def typed_here(command: str) -> str:
    """Return how a tool is called in the current folder, a checkout or another one."""
    is_checkout = Path('tools', 'train.py').is_file()
    return f'python tools/{COMMANDS[command]}' if is_checkout else f'cakd-mm {command}'


def as_typed_here(text: str) -> str:
    """Return a command of a config as it has to be typed in the current folder.

    Configs say ``python tools/train.py configs/vanilla/x.py``, which works in a
    checkout only. Elsewhere it is ``cakd-mm train cakd_mm::vanilla/x.py``. If there is
    a checkout somewhere else, both are given.
    """
    if typed_here('train') != 'cakd-mm train':
        return text
    here = text
    for command, file in COMMANDS.items():
        here = here.replace(f'python tools/{file}', f'cakd-mm {command}')
    here = re.sub(r'\bconfigs/([\w./-]+\.py)\b', r'cakd_mm::\1', here)
    checkout = PACKAGE.parent
    if here == text or not (checkout / 'tools' / 'train.py').is_file():
        return here
    return f'{text} (in {checkout}; in this folder: {here})'


def other_copy(script: str) -> Path | None:
    """Return the package beside a tool, if another copy of it is imported.

    This happens because Python imports the installed package, wherever the tool is.

    Args:
        script (str): The path of the tool, ``sys.argv[0]``.
    """
    for folder in Path(script).resolve().parents:
        beside = folder.parent / 'cakd_mm'
        if folder.name == 'tools' and (beside / '__init__.py').is_file():
            return None if beside.samefile(PACKAGE) else beside
    return None
