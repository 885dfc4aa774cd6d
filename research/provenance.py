"""What a number was made with: code, packages, machine."""

import platform
import shutil
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from cakd_mm.utils.machine import cores

PACKAGES = (
    'cakd_mm',
    'torch',
    'mmrazor',
    'onedl-mmengine',
    'onedl-mmpretrain',
    'mmengine',
    'mmpretrain',
)


def commit() -> str:
    """Return the commit of the checkout, ``+`` where files differ from it."""
    root = Path(__file__).resolve().parents[1]
    if not (root / '.git').exists():
        return 'installed'
    if shutil.which('git') is None:
        return 'unknown'

    def git(*words: str) -> str:
        command = ['git', '-C', str(root), *words]
        done = subprocess.run(
            command, capture_output=True, encoding='utf-8', check=False
        )
        return done.stdout.strip()

    changed = git('status', '--porcelain', '--untracked-files=no')
    return git('rev-parse', '--short', 'HEAD') + ('+' if changed else '')


@cache
def versions() -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Return GPUs, or processor and cores, in words."""
    if torch.cuda.is_available():
        names = [
            torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
        ]
        return ', '.join(f'{names.count(name)} x {name}' for name in sorted(set(names)))
    return f'{cores()} cores ({processor()}), no GPU'


def cpuinfo() -> dict[str, str]:
    """Return what Linux says of the first processor; nothing elsewhere."""
    info = Path('/proc/cpuinfo')
    if not info.is_file():
        return {}
    first = info.read_text(encoding='utf-8').partition('\n\n')[0]
    lines = (line.partition(':') for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def processor() -> str:
    """Return the processor's name."""
    return cpuinfo().get('model name') or platform.processor() or platform.machine()
