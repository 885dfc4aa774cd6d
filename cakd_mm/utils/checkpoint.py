"""Reading, strictly loading and comparing weights."""

import hashlib
import importlib
import json
import os
import pickle
from collections.abc import Callable, Collection, Mapping
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from .data_pickle import load_data_only
from .errors import describe, start_of
from .published_weights import as_wanted

STUDENT_PREFIX = 'architecture.'
# Where a checkpoint may hold its weights, if it is not the weights themselves.
HOLDERS = ('state_dict', 'model')
# The end of the name of a list of files in which weights are shared out.
INDEX = '.index.json'


def is_remote(path: str) -> bool:
    """Return whether ``path`` is a URL (``https://``, ``s3://``, ``torchvision://``)."""
    return '://' in str(path)


def require_file(path: str, key: str, remedy: str) -> None:
    """Raise if ``path`` is a local file that does not exist.

    Args:
        path: A checkpoint's path or URL.
        key: The config key that named it.
        remedy: The command that makes it, or what to write instead.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    # Unlike those of Path, these functions take any text, such as `~nobody/x.pth`.
    if not is_remote(path) and not os.path.isfile(os.path.expanduser(path)):
        here = f'There is no such file (looked from {Path.cwd()}).'
        raise FileNotFoundError(describe(key, path, here, remedy))


def read_checkpoint(path: str, key: str, remedy: str) -> dict:
    """Read a checkpoint on the CPU, of mmengine or as other projects publish weights.

    It may be a file of torch, of safetensors, or the ``*.index.json`` of several. For a
    missing file see :func:`require_file`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a readable checkpoint, holds no weights, or holds
            objects that only code can make.
    """
    download = partial(CheckpointLoader.load_checkpoint, map_location='cpu')
    load = download if is_remote(path) else load_file
    checkpoint = _read(load, path, key, remedy)
    _weights(checkpoint, path, key, remedy)
    return checkpoint


def read_foreign_weights(path: str, key: str, remedy: str) -> dict[str, Tensor]:
    """Read the weights of another code base on the CPU, running no code of the file.

    The file may be the weights themselves, or hold them as ``state_dict`` or ``model``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a readable checkpoint, holds no weights, holds
            something else among them, or holds objects that only code can make.
    """
    checkpoint = _read(load_file, path, key, remedy)
    weights = _weights(checkpoint, path, key, remedy)
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            problem = f'{name!r} among the weights is a {type(value).__name__}.'
            raise ValueError(describe(key, path, problem, remedy))
    return dict(weights)


def _read(load: Callable[[str], Any], path: str, key: str, remedy: str) -> Any:
    require_file(path, key, remedy)
    try:
        return load(str(path))
    except Exception as error:  # a backend of mmengine has its own errors
        raise _unreadable(error, path, key, remedy) from error


def load_file(file: str | os.PathLike | BinaryIO, map_location: Any = 'cpu') -> Any:
    """Read a file of torch or of safetensors as data.

    Args:
        file: A path, or an open file. The ``*.index.json`` of a model names files
            beside it, which are read in its place.
        map_location: As of ``torch.load``. Defaults to the CPU.

    Raises:
        ImportError: safetensors is not installed.
        OSError: it cannot be opened.
        Exception: it is no such file, or holds more than data.
    """
    if not isinstance(file, (str, os.PathLike)):
        return load_data_only(file, map_location)
    path = Path(file).expanduser()
    if path.name.endswith(INDEX):
        names = json.loads(path.read_text(encoding='utf-8'))['weight_map']
        files = {*names.values()}
        parts = {x: load_file(path.parent / Path(x).name, map_location) for x in files}
        # Two of the files may hold weights of one name.
        return {name: parts[part][name] for name, part in names.items()}
    with path.open('rb') as opened:
        # The size of the header, and then the header, which is JSON.
        is_safe = opened.read(9)[8:] == b'{'
    if not is_safe:
        return load_data_only(path, map_location)
    try:
        safetensors: Any = importlib.import_module('safetensors.torch')
    except ImportError as error:
        text = 'it is a file of safetensors, which is not installed; type pip install '
        raise ImportError(f'{text}safetensors') from error
    weights = safetensors.load_file(path)
    return {name: x.to(map_location) for name, x in weights.items()}


def _unreadable(error: Exception, path: str, key: str, remedy: str) -> ValueError:
    problem = f'The file cannot be read as a checkpoint ({start_of(error, 300)}).'
    return ValueError(describe(key, path, problem, remedy))


def load_for_mmengine(
    file: str | os.PathLike | BinaryIO,
    map_location: Any = None,
    weights_only: bool | None = None,
) -> Any:
    """Read a torch file as data, whatever ``weights_only`` says, for mmengine.

    The config's text that MMCV's runner wrote is left out, because mmengine would run
    it on resuming.

    Raises:
        ValueError: the file is not a readable checkpoint, or holds more than data.
    """
    try:
        checkpoint = load_file(file, map_location)
    except pickle.UnpicklingError as error:
        remedy = 'Write the path of another file.'
        raise _unreadable(error, str(file), 'checkpoint', remedy) from error
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    if isinstance(meta, dict):
        meta.pop('config', None)
    return checkpoint


def load_url(
    url: str,
    model_dir: str | None = None,
    map_location: Any = None,
    progress: bool = True,
) -> Any:
    """Download a torch file, if it has not been, and read it as data, for mmengine."""
    folder = Path(model_dir or Path(torch.hub.get_dir()) / 'checkpoints')
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(urlparse(url).path).name
    if not path.exists():
        torch.hub.download_url_to_file(url, str(path), progress=progress)
    return load_for_mmengine(path, map_location)


def _held(checkpoint: Mapping) -> Any:
    """Return the first of the entries :data:`HOLDERS`, or else the whole checkpoint."""
    return next((checkpoint[x] for x in HOLDERS if x in checkpoint), checkpoint)


def _weights(checkpoint: Any, path: str, key: str, remedy: str) -> Mapping[str, Tensor]:
    weights = _held(checkpoint) if isinstance(checkpoint, Mapping) else checkpoint
    values = weights.values() if isinstance(weights, Mapping) else ()
    if not any(isinstance(value, Tensor) for value in values):
        problem = f'The file holds no `{"` or `".join(HOLDERS)}`.'
        raise ValueError(describe(key, path, problem, remedy))
    return weights


def model_weights(checkpoint: Mapping) -> dict[str, Tensor]:
    """Return the weights of a classifier, or of a distillation checkpoint's student.

    The prefix of a wrapper (``module.``) is removed.
    """
    weights = unwrapped(_held(checkpoint))
    return strip_prefix(weights, STUDENT_PREFIX) or weights


def unwrapped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a model without the prefix of its wrapper, if any."""
    return strip_prefix(weights, 'module.') or dict(weights)


def strip_prefix(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names start with ``prefix``, without it."""
    size = len(prefix)
    return {k[size:]: v for k, v in weights.items() if k.startswith(prefix)}


def load_strictly(
    module: nn.Module, weights: Mapping[str, Tensor], key: str, value, remedy: str
) -> None:
    """Load ``weights``, refusing anything missing, unexpected or of another shape.

    Weights as other projects publish them are first converted to those of ``module``;
    see :func:`~cakd_mm.utils.published_weights.as_wanted`.

    Raises:
        ValueError: the weights do not fit, which the message explains by every kind of
            mismatch, or hold nan or inf.
    """
    wanted = module.state_dict()
    weights, notes = as_wanted(module, weights)
    problems = []
    for title, names in (
        ('missing', wanted.keys() - weights.keys()),
        ('unexpected', weights.keys() - wanted.keys()),
    ):
        if names:
            problems.append(f'{len(names)} {title} keys ({_first(names)})')
    for name in sorted(wanted.keys() & weights.keys()):
        got, want = tuple(weights[name].shape), tuple(wanted[name].shape)
        if got != want:
            problems.append(f'{name} is {got} in the file, {want} in the model')
        # Weights of integers are those of a net that was quantized.
        kind = weights[name].dtype
        if wanted[name].is_floating_point() and not kind.is_floating_point:
            problems.append(f'{name} is of {kind} in the file')
    if problems:
        classes = _class_counts(wanted, weights)
        text = f'The weights do not fit: {"; ".join(problems[:8])}.{classes}'
        raise ValueError(describe(key, value, text, remedy))
    spoilt = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if spoilt:
        text = f'{len(spoilt)} of its tensors hold nan or inf ({_first(spoilt)}), so '
        text += 'the run that wrote it had diverged.'
        remedy = 'Give one that was written before, or train it again.'
        raise ValueError(describe(key, value, text, remedy))
    # Some nets of others ask for the versions of their modules.
    wanted.update(weights)
    given = wanted if hasattr(module, 'model') else weights
    # A net may leave out tables that it makes itself, as SwinV2 does.
    left_out = set(module.load_state_dict(given, strict=False).missing_keys)
    lost = left_out & {name for name, _ in module.named_parameters()}
    if lost:
        text = f'The model has not taken {len(lost)} of its weights ({_first(lost)}).'
        raise ValueError(describe(key, value, text, remedy))
    for note in notes:
        print_log(f'{value}: {note}', 'current')


def _first(names: Collection[str]) -> str:
    """Return the first names in their order, at most four."""
    return ', '.join(sorted(names)[:4]) + (', ...' if len(names) > 4 else '')


def _class_counts(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Say if the numbers of classes differ, because that means another dataset."""
    last = next(reversed(list(wanted)), '')
    for name in wanted.keys() & weights.keys():
        if (name.startswith('head.') or name == last) and wanted[name].ndim == 1:
            got, want = len(weights[name]), len(wanted[name])
            if got != want:
                return f' The file scores {got} classes, the config asks for {want}.'
    return ''


def fingerprint(weights: Mapping[str, Tensor]) -> Tensor:
    """Return the SHA-256 of names, types, shapes and bytes as a (32,) uint8 tensor."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f'{name}|{tensor.dtype}|{tuple(tensor.shape)}'.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def hexadecimal(sha256: Tensor) -> str:
    """Return a :func:`fingerprint` as it is written in logs and errors."""
    return bytes(sha256.tolist()).hex()


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def own_scores(checkpoint: Mapping) -> dict[str, float]:
    """Return the validation scores of a plain student's weights, empty if unknown.

    Entries of other code that are no scores are ignored.
    """
    scores = _entry(checkpoint, 'meta', 'scores')
    return {k: float(v) for k, v in scores.items() if isinstance(v, Real)}


def logged_scores(checkpoint: Mapping) -> dict[str, float]:
    """Return the validation scores that a checkpoint's run had logged last.

    mmengine writes ``epoch_*.pth`` before it scores the epoch, so these may be the
    scores of the epoch before.

    Returns:
        dict[str, float]: Such as ``{'accuracy/top1': 97.2}``; empty if there are none.
    """
    return scores_in(_entry(checkpoint, 'message_hub', 'log_scalars'))


def _entry(checkpoint: Mapping, section: str, name: str) -> Mapping:
    found = checkpoint.get(section)
    found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


# What mmengine logs of a validation beside its metrics.
NO_METRICS = ('time', 'data_time')


def scores_in(scalars: Mapping[str, HistoryBuffer]) -> dict[str, float]:
    """Return the last value of each validation metric among logged scalars."""
    return {
        name.removeprefix('val/'): float(history.current())
        for name, history in scalars.items()
        if name.startswith('val/') and name.removeprefix('val/') not in NO_METRICS
        if isinstance(history, HistoryBuffer) and len(history.data[0])
    }


def spell_out(scores: Mapping[str, float]) -> list[str]:
    """Return scores as a log shows them, ``accuracy/top1 97.20`` each."""
    return [f'{name} {value:.2f}' for name, value in scores.items()]
