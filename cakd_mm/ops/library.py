"""The native kernels: built by the machine's C++ compiler when first asked for.

A build takes a second and is kept in the user's cache under a name that says of
what and for which processor it was made, so that all later processes only load it.
"""

import ctypes
import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from ctypes import c_double, c_int64, c_void_p
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from mmengine.logging import print_log

from ..utils.caching import cache_folder, write_whole
from ..utils.provenance import cpuinfo

SOURCES = sorted(Path(__file__).with_name('csrc').glob('*.cpp'))
FLAGS = '-O3 -march=native -std=c++17 -fPIC -shared -fno-math-errno -fno-trapping-math'
OPENMP = '-fopenmp'
POINTER, WHOLE, REAL = c_void_p, c_int64, c_double
SIGNATURES = {
    'cakd_single_label': (3 * [POINTER] + 2 * [WHOLE] + 3 * [REAL] + [WHOLE])
    + 6 * [POINTER],
    'cakd_clusters': (3 * [POINTER] + 2 * [WHOLE] + 4 * [REAL] + [WHOLE])
    + 6 * [POINTER],
    'cakd_strongest': [POINTER] + 4 * [WHOLE] + [POINTER],
    'cakd_cluster_sums': 2 * [POINTER] + 3 * [WHOLE] + [POINTER],
}

CHECKS = ('cakd_single_label',)  # return where an index is wrong, or -1


class BuildError(RuntimeError):
    """The native kernels cannot be built or loaded here."""


def library() -> ctypes.CDLL:
    """Return the kernels, built if they are not there yet.

    Raises:
        BuildError: there is no C++ compiler, or it or the loader refuses them.
    """
    found, failure = _once()
    if found is None:
        raise BuildError(failure)
    return found


def available() -> bool:
    """Tell whether there are kernels; a log says why not, once."""
    found, failure = _once()
    if found is None:
        _say(failure)
    return found is not None


@lru_cache(1)
def _say(failure: str) -> None:
    text = f'Resident data goes without native kernels, to the same pixels: {failure}'
    print_log(text, 'current')


@lru_cache(1)
def _once() -> tuple[ctypes.CDLL | None, str]:
    """Return the library, or why there is none; asked once a process."""
    try:
        return _built(), ''
    except (OSError, ValueError, subprocess.SubprocessError, AttributeError) as error:
        said = getattr(error, 'stderr', None) or str(error)
        return None, f'the C++ compiler or loader says: {" ".join(said.split())[:300]}'


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    for name, kinds in SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes = kinds
        function.restype = WHOLE if name in CHECKS else None
    return loaded


def _built() -> ctypes.CDLL:
    """Return the kept library, or make one and keep it if possible."""
    compiler = shlex.split(os.environ.get('CXX') or 'c++')
    options = FLAGS.split()
    if sys.platform == 'linux':  # Apple's compiler comes without
        options.append(OPENMP)
    folder = cache_folder('auto')
    kept = folder and folder / f'native-{_digest(compiler, options)[:16]}.so'
    if kept:
        with suppress(OSError, AttributeError):  # none, damaged, not ours to read
            return _load(kept)
    with TemporaryDirectory(prefix='cakd_mm-') as scratch:
        made = Path(scratch, 'native.so')
        command = [*compiler, *options, *map(str, SOURCES), '-o', str(made)]
        subprocess.run(command, capture_output=True, text=True, check=True)
        if kept and write_whole(kept, made.read_bytes()):
            with suppress(OSError):  # one of the two folders may forbid execution
                return _load(kept)
        return _load(made)  # once loaded, a file may be deleted


def _digest(compiler: list[str], options: list[str]) -> str:
    """Return a name for a build: of what, by what, for which processor."""
    version = subprocess.run(
        [*compiler, '--version'], capture_output=True, text=True, check=True
    ).stdout
    # `-march=native` of another machine that shares this home may not run here.
    info = cpuinfo()
    flags = info.get('flags') or info.get('Features') or platform.processor()
    made_of = [version, *options, platform.machine(), flags]
    made_of += [source.read_text('utf-8') for source in SOURCES]
    return sha256('\0'.join(made_of).encode()).hexdigest()
