"""Where the command-line tools are, and how somebody here would call them."""

import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

# Short names of the tools, for those who have no checkout: `cakd-mm train CONFIG`.
COMMANDS = {
    'train': 'train.py',
    'test': 'test.py',
    'extract': 'model_converters/extract_student.py',
    'plot': 'analysis_tools/plot_cakd.py',
    'reproduce': 'reproduce.py',
    'demo': 'demo.py',
    'from-torchvision': 'model_converters/from_torchvision.py',
    'from-repdistiller': 'model_converters/from_repdistiller.py',
    'statistics': 'dataset_tools/measure_statistics.py',
}


def tool(name: str) -> Path:
    """Return a command-line tool: the checkout's, or the installed one."""
    checkout = PACKAGE.parent / 'tools' / name
    return checkout if checkout.is_file() else PACKAGE / '.mim' / 'tools' / name


def as_typed_here(text: str) -> str:
    """Return a text whose commands work in the current folder.

    Configs and messages say ``python tools/train.py configs/vanilla/x.py``, which works
    in a checkout. Elsewhere the same is ``cakd-mm train cakd_mm::vanilla/x.py``.
    """
    if Path('tools', 'train.py').is_file():
        return text
    for command, file in COMMANDS.items():
        text = text.replace(f'python tools/{file}', f'cakd-mm {command}')
    return re.sub(r'\bconfigs/([\w./-]+\.py)\b', r'cakd_mm::\1', text)


def other_copy(script: str) -> Path | None:
    """Return the package beside a tool, if another copy of it has been imported.

    Python takes the installed package, wherever a tool lies: the tool of one checkout
    may run the code of another.

    Args:
        script (str): The path of the tool, ``sys.argv[0]``.
    """
    for folder in Path(script).resolve().parents:
        beside = folder.parent / 'cakd_mm'
        if folder.name == 'tools' and (beside / '__init__.py').is_file():
            return None if beside.samefile(PACKAGE) else beside
    return None
