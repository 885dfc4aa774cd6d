"""Pickles and torch files read as data: what could run code is refused by name.

PyTorch's own ``weights_only`` is not used. It takes further classes from torch 2.4 on
only, reads no pickle of protocol 4 or 5, and runs TorchScript before torch 2.6. This
module can stand in the place of ``pickle``: it has the names that PyTorch and
mmpretrain use of it, ``Unpickler``, ``load`` and ``loads``.
"""

import argparse
import io
import os
import pickle
import sys
import tarfile
from _codecs import encode
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import mmengine
import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log

from .errors import describe

TRUSTED = 'CAKD_MM_TRUSTED'
ZIP = b'PK\x03\x04'


class CodeError(pickle.UnpicklingError):
    """A file holds more than data."""


def _allowed() -> dict[str, Any]:
    """Return all that a pickle may name: plain data, tensors, arrays and histories.

    Whatever can be called here does no harm with any arguments.
    """
    array = np.zeros(1)
    # Numpy 1 and numpy 2 write other names of modules, and each reads both here.
    arrays = {
        'multiarray._reconstruct': _empty_array,
        'multiarray.scalar': array[0].__reduce__()[0],
        'numeric._frombuffer': array.__reduce_ex__(5)[0],
    }
    history = 'mmengine.logging.history_buffer.HistoryBuffer'
    return {
        '_codecs.encode': encode,  # bytes before protocol 3
        'argparse.Namespace': argparse.Namespace,
        'builtins.bytearray': bytearray,
        'builtins.complex': complex,
        'builtins.frozenset': frozenset,
        'builtins.getattr': _attribute,
        'builtins.set': set,
        'builtins.slice': slice,
        'collections.Counter': Counter,
        'collections.OrderedDict': OrderedDict,
        history: HistoryBuffer,
        **{
            f'{history}.{name}': getattr(HistoryBuffer, name)
            for name in ('current', 'max', 'mean', 'min')
        },
        'numpy.dtype': np.dtype,
        'numpy.ndarray': 'ndarray',  # Called, it would take numbers for objects.
        **{f'numpy.{x}.{k}': v for x in ('core', '_core') for k, v in arrays.items()},
        'torch.Size': torch.Size,
        'torch.device': torch.device,
        **{str(x): x for x in vars(torch).values() if isinstance(x, torch.dtype)},
        'torch._utils._rebuild_parameter': torch._utils._rebuild_parameter,
        'torch._utils._rebuild_tensor': torch._utils._rebuild_tensor,
        'torch._utils._rebuild_tensor_v2': torch._utils._rebuild_tensor_v2,
        'torch.nn.parameter.Parameter': torch.nn.Parameter,
        'torch.storage._load_from_bytes': _storage,  # a tensor that pickle has written
    }


def _empty_array(*_: Any) -> np.ndarray:
    """Return what numpy begins an array with; the state that follows has the rest."""
    return np.empty(0, np.int8)


def _attribute(owner: type, name: str) -> Any:
    """Return the method of a history, which protocols 2 and 3 write as an attribute."""
    return _find(f'{owner.__module__}.{owner.__qualname__}.{name}')


def _storage(content: bytes) -> Any:
    return load_data_only(io.BytesIO(content))


def _find(name: str) -> Any:
    if name not in ALLOWED:
        raise CodeError(f'it holds `{name}`, which could run code on loading')
    return ALLOWED[name]


ALLOWED = _allowed()


# The class in Python is taken, because that in C cannot watch single instructions.
_Unpickler: Any = pickle._Unpickler


class Unpickler(_Unpickler):
    """Makes objects of :data:`ALLOWED` classes and calls :data:`ALLOWED` functions."""

    dispatch = dict(_Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle names, or refuse it."""
        # Protocol 2 writes some names as Python 2 had them.
        module = IMPORT_MAPPING.get(module, module)
        module, name = NAME_MAPPING.get((module, name), (module, name))
        return _find(f'{module}.{name}')

    def get_extension(self, code: int) -> None:
        """Refuse a number in place of a name, of which :mod:`copyreg` has a list."""
        raise CodeError(f'it names a class by its number {code}')

    def load_build(self) -> None:
        """Give an object its state, but leave classes, functions and dtypes alone."""
        target, state = self.stack[-2:]
        if isinstance(target, np.dtype):
            # Numpy would believe a state that lies about what is in memory.
            if state != target.__reduce__()[2]:
                raise CodeError(f'it changes `{target!r}`')
            del self.stack[-1]
            return
        if callable(target):
            raise CodeError(f'it changes `{target!r}`')
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def load_binpersid(self) -> None:
        """Refer to a storage, and not to source code, which old torch files could."""
        kind, *_ = self.stack[-1]
        if kind not in ('storage', b'storage'):
            raise CodeError(f'it refers to a {kind!r:.80}')
        super().load_binpersid()

    dispatch[pickle.BINPERSID[0]] = load_binpersid


def load(file: BinaryIO, **options: Any) -> Any:
    """Read a pickle as ``pickle.load`` does, but make no other objects than data.

    Raises:
        CodeError: the file holds something else, which is named.
    """
    return Unpickler(file, **options).load()


def loads(content: bytes, **options: Any) -> Any:
    """Read a pickle from memory; see :func:`load`."""
    return load(io.BytesIO(content), **options)


def load_annotations(path: str, **options: Any) -> Any:
    """Read a file of annotations as ``mmengine.load`` does, which may be a pickle.

    Raises:
        ValueError: it is a pickle that holds more than data.
    """
    try:
        return mmengine.load(path, **options)
    except CodeError as error:
        problem = f'It cannot be read as data ({error}).'
        raise ValueError(
            describe('ann_file', path, problem, 'Write it as JSON.')
        ) from None


def load_data_only(
    file: str | os.PathLike | BinaryIO, map_location: Any = 'cpu'
) -> Any:
    """Read a torch file without running any code that it may hold.

    Beside tensors and plain containers the file may hold what checkpoints of mmengine
    do, which is histories and numbers and arrays of numpy, and the options of an
    argument parser, because training scripts store these with the weights. A file that
    is named in the environment variable ``CAKD_MM_TRUSTED`` is read whatever it holds.

    Args:
        file: A path, or an open file.
        map_location: As of ``torch.load``. Defaults to the CPU.

    Raises:
        CodeError: the file holds something else.
        pickle.UnpicklingError: it is no torch file.
        OSError: it cannot be opened.
    """
    if not isinstance(file, (str, os.PathLike)):
        return _read(file, map_location)
    path = Path(file).expanduser()
    if _is_trusted(path):
        print_log(
            f'{path} is named in {TRUSTED}: any code in it is run.',
            logger='current',
            level=30,
        )
        return torch.load(path, map_location=map_location, weights_only=False)
    try:
        with path.open('rb') as opened:
            return _read(opened, map_location)
    except CodeError as error:
        trust = f'if you trust the file, name it in the environment variable {TRUSTED}'
        raise CodeError(f'{error}; {trust}') from None


def _is_trusted(path: Path) -> bool:
    names = filter(None, os.environ.get(TRUSTED, '').split(os.pathsep))
    trusted = {os.path.realpath(os.path.expanduser(name)) for name in names}
    return os.path.realpath(path) in trusted


def _read(file: BinaryIO, map_location: Any) -> Any:
    try:
        _refuse_other_formats(file)
        with _own_rules():
            return torch.load(
                file,
                map_location=map_location,
                pickle_module=sys.modules[__name__],
                weights_only=False,
            )
    except (pickle.UnpicklingError, OSError):
        raise
    except Exception as error:  # torch, zipfile and pickle have their own errors
        reason = f'{type(error).__name__}: {error}'
        raise pickle.UnpicklingError(
            f'it is not as torch.save writes files ({reason})'
        ) from error


def _refuse_other_formats(file: BinaryIO) -> None:
    """Raise if ``torch.load`` would not unpickle the file but do something else."""
    if tarfile.is_tarfile(file):
        raise CodeError('it is a tar archive, as torch 0.1 wrote them')
    file.seek(0)
    if file.read(len(ZIP)) == ZIP:
        file.seek(0)
        if 'constants.pkl' in torch._C.PyTorchFileReader(file).get_all_records():
            raise CodeError('it is a program of TorchScript, not weights')
    file.seek(0)


@contextmanager
def _own_rules() -> Iterator[None]:
    """Let torch read with this module where the user forces ``weights_only``.

    Torch refuses any module that unpickles then, because it cannot know what it allows.
    """
    name = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
    forced = os.environ.pop(name, None)
    try:
        yield
    finally:
        if forced is not None:
            os.environ[name] = forced
