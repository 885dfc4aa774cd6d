"""Reading and strictly loading weights, and telling two sets of them apart."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path

import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from ..compat import load_data_only
from .errors import describe

STUDENT_PREFIX = 'architecture.'


def is_remote(path: str) -> bool:
    """Whether mmengine fetches ``path`` (``https://``, ``s3://``, ``torchvision://``)."""
    return '://' in str(path)


def require_file(path: str, key: str, remedy: str) -> None:
    """Raise if ``path`` is a local file that does not exist.

    Args:
        path: A checkpoint's path or URL.
        key: The config key it was read from.
        remedy: The command that would make it, or what to write instead.

    Raises:
        FileNotFoundError: naming key, path and remedy.
    """
    if not is_remote(path) and not Path(path).expanduser().is_file():
        here = f'There is no such file (looked from {Path.cwd()}).'
        raise FileNotFoundError(describe(key, path, here, remedy))


def read_checkpoint(path: str, key: str, remedy: str) -> dict:
    """Read a checkpoint of mmengine on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a readable checkpoint, or holds no weights.
    """

    def load(file: str) -> dict:
        return CheckpointLoader.load_checkpoint(file, map_location='cpu')

    checkpoint = _read(load, path, key, remedy)
    _weights(checkpoint, ('state_dict',), path, key, remedy)
    return checkpoint


def read_foreign_weights(path: str, key: str, remedy: str) -> dict[str, Tensor]:
    """Read the weights of another code base on the CPU, running no code of the file.

    They may lie in the file as they are, or under ``state_dict`` or ``model``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a readable checkpoint, holds no weights or other
            things among them, or holds objects that only code can make.
    """
    checkpoint = _read(load_data_only, path, key, remedy)
    weights = _weights(checkpoint, ('state_dict', 'model'), path, key, remedy)
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            problem = f'{name!r} among the weights is a {type(value).__name__}.'
            raise ValueError(describe(key, path, problem, remedy))
    return dict(weights)


def _read(load: Callable[[str], dict], path: str, key: str, remedy: str) -> dict:
    require_file(path, key, remedy)
    try:
        return load(str(path))
    except Exception as error:  # torch, zipfile, pickle: each raises its own
        problem = f'The file cannot be read as a checkpoint ({error!s:.300}).'
        raise ValueError(describe(key, path, problem, remedy)) from error


def _weights(
    checkpoint: dict, names: Sequence[str], path: str, key: str, remedy: str
) -> Mapping[str, Tensor]:
    """Return the first entry of ``names``, or the whole, if it holds tensors."""
    found = checkpoint
    if isinstance(checkpoint, Mapping):
        found = next((checkpoint[x] for x in names if x in checkpoint), checkpoint)
    if not isinstance(found, Mapping) or not any(
        isinstance(value, Tensor) for value in found.values()
    ):
        problem = f'The file holds no `{"` or `".join(names)}`.'
        raise ValueError(describe(key, path, problem, remedy))
    return found


def model_weights(checkpoint: Mapping) -> dict[str, Tensor]:
    """Return the weights of a classifier from its own or a distillation checkpoint.

    Of a checkpoint written while distilling, these are the student's. Prefixes
    that wrappers leave (``module.``) are dropped.
    """
    weights = dict(checkpoint.get('state_dict', checkpoint))
    for prefix in ('module.', STUDENT_PREFIX):
        weights = strip_prefix(weights, prefix) or weights
    return weights


def strip_prefix(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names start with ``prefix``, without it."""
    size = len(prefix)
    return {k[size:]: v for k, v in weights.items() if k.startswith(prefix)}


def load_strictly(
    module: nn.Module, weights: Mapping[str, Tensor], key: str, value, remedy: str
) -> None:
    """Load ``weights``, refusing anything missing, unexpected or of another shape.

    Raises:
        ValueError: naming the config key, the file and every kind of mismatch.
    """
    own = module.state_dict()
    problems = []
    for title, names in (
        ('missing', own.keys() - weights.keys()),
        ('unexpected', weights.keys() - own.keys()),
    ):
        if names:
            problems.append(f'{len(names)} {title} keys ({_some(names)})')
    for name in sorted(own.keys() & weights.keys()):
        got, want = tuple(weights[name].shape), tuple(own[name].shape)
        if got != want:
            problems.append(f'{name} is {got} in the file, {want} in the model')
    if problems:
        classes = _class_counts(own, weights)
        text = f'The weights do not fit: {"; ".join(problems[:8])}.{classes}'
        raise ValueError(describe(key, value, text, remedy))
    module.load_state_dict(weights, strict=True)


def _class_counts(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Spell out a mismatch of the classifier's bias, the usual wrong dataset."""
    for name in own.keys() & weights.keys():
        if name.startswith('head.') and own[name].ndim == 1:
            got, want = len(weights[name]), len(own[name])
            if got != want:
                return f' The file scores {got} classes, the config asks for {want}.'
    return ''


def _some(names, most: int = 4) -> str:
    names = sorted(names)
    return ', '.join(names[:most]) + (', ...' if len(names) > most else '')


def fingerprint(weights: Mapping[str, Tensor]) -> Tensor:
    """Return the SHA-256 of names, types, shapes and bytes as a (32,) uint8 tensor."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f'{name}|{tensor.dtype}|{tuple(tensor.shape)}'.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def last_scores(checkpoint: Mapping) -> dict[str, float]:
    """Return the validation scores that a checkpoint's run had logged last.

    mmengine writes a checkpoint before it scores the epoch, so of a checkpoint
    ``epoch_*.pth`` these may be the scores of the epoch before. What other code has
    put in their place is no score.

    Returns:
        dict[str, float]: Such as ``{'accuracy/top1': 97.2}``; empty if there are none.
    """
    kept = _mapping(_mapping(checkpoint.get('meta')).get('scores'))
    if kept:
        return {k: float(v) for k, v in kept.items() if isinstance(v, Real)}
    return scores_in(
        _mapping(_mapping(checkpoint.get('message_hub')).get('log_scalars'))
    )


def scores_in(scalars: Mapping[str, HistoryBuffer]) -> dict[str, float]:
    """Return the last value of each validation metric among logged scalars."""
    return {
        name.removeprefix('val/'): float(history.current())
        for name, history in scalars.items()
        if name.startswith('val/') and '/' in name.removeprefix('val/')
        if isinstance(history, HistoryBuffer) and len(history.data[0])
    }


def spell_out(scores: Mapping[str, float]) -> list[str]:
    """Return scores as a log shows them, ``accuracy/top1 97.20`` each."""
    return [f'{name} {value:.2f}' for name, value in scores.items()]


def _mapping(value) -> Mapping:
    """Return a mapping as it is, and nothing in the place of anything else."""
    return value if isinstance(value, Mapping) else {}
