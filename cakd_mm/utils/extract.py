"""From a distillation run to a plain checkpoint and config of the student."""

import copy
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS, DefaultScope
from mmengine.structures import BaseDataElement
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ..compat import without_printed
from ..tasks import Task, task_of, task_of_config
from .arguments import class_of
from .checkpoint import STUDENT_PREFIX, load_strictly, strip_prefix, unwrapped
from .errors import describe
from .net_config import net_config
from .type_names import as_written
from .whole_file import whole_file, write_whole

# The entries that evaluation and inference with mmpretrain read.
EVALUATION = (
    'test_dataloader',
    'test_evaluator',
    'test_cfg',
    'val_dataloader',
    'val_evaluator',
    'env_cfg',
    'log_level',
)
KEY = 'checkpoint'
# How far the scores of a student whose neck went into its head may be from those that
# it had before, as a share of the largest score.
ROUNDING = 1e-4
# Settings of the algorithm's preprocessor that mmpretrain's own, which a plain student
# has, does not know. They change no image.
OF_TRAINING = ('channels_last', 'non_blocking')
# Stems of the files that extraction writes, at the end of a run or from a checkpoint.
EXTRACTED = re.compile(r'student(_ema|_best.*)?|(epoch|iter|best)_.*_student(_ema)?')


def file_of(cfg: Config) -> Path | None:
    """Return the file of a config; None if it was made in Python.

    The tools let the Runner know ``student.py`` as ``student_run.py``, because its copy
    in the work dir must not take the place of the plain student's config.
    """
    if not cfg.filename:
        return None
    file = Path(cfg.filename)
    return file if file.is_file() else file.with_stem(file.stem.removesuffix('_run'))


def student_weights(checkpoint: Mapping, ema: bool = False) -> dict[str, Tensor]:
    """Return the student's weights of a distillation checkpoint.

    If there is an average, mmengine stores it in ``state_dict``, and the trained
    weights in ``ema_state_dict``: mmengine's own ``EMAHook`` those of the whole
    algorithm, ``StudentEMAHook`` those of the student.

    Args:
        checkpoint: A checkpoint that mmengine wrote while distilling.
        ema: Whether to take the averaged weights. Defaults to False.

    Raises:
        ValueError: it is no distillation checkpoint, or it has no average.
    """
    has_average = 'ema_state_dict' in checkpoint
    if ema and not has_average:
        problem = 'The checkpoint holds no averaged weights.'
        remedy = (
            "Train with custom_hooks=[dict(type='StudentEMAHook')], or leave --ema out."
        )
        raise ValueError(describe('--ema', True, problem, remedy))
    weights = checkpoint.get('state_dict', {})
    found = strip_prefix(unwrapped(weights), STUDENT_PREFIX)
    if not found:
        start = STUDENT_PREFIX
        problem = f'It is not a distillation checkpoint: no key starts with {start!r}.'
        remedy = 'Give an epoch_*.pth or iter_*.pth of a distillation run.'
        raise ValueError(describe(KEY, sorted(weights)[:3], problem, remedy))
    if not has_average or ema:
        return found
    trained = unwrapped(checkpoint['ema_state_dict'])
    return strip_prefix(trained, STUDENT_PREFIX) or trained


def meta_of(checkpoint: Mapping) -> dict:
    """Return the metadata of a checkpoint that its plain student has too."""
    meta, names = checkpoint.get('meta', {}), ('epoch', 'iter', 'dataset_meta', 'seed')
    return {name: meta[name] for name in names if name in meta}


def student_model(cfg: Config) -> ConfigDict:
    """Return the student's model config of a distillation config."""
    model = cfg.get('model', {})
    if 'architecture' not in model:
        problem = 'The config describes no distillation (no model.architecture).'
        remedy = 'Give the config that the checkpoint was trained with.'
        raise ValueError(describe('model', model.get('type'), problem, remedy))
    student = net_config(model.architecture, 'model.architecture')
    student.pop('_scope_', None)
    _drop_pretrained(student)
    student.pop('data_preprocessor', None)
    return student


def _drop_pretrained(net: ConfigDict) -> None:
    """Remove the initial weights of a net, because it gets those of its run."""

    def pretrained(init) -> bool:
        if not isinstance(init, Mapping) or 'type' not in init:
            return False
        key = 'model.architecture.init_cfg'
        return class_of(init, WEIGHT_INITIALIZERS, key) is PretrainedInit

    init = net.get('init_cfg')
    if isinstance(init, (list, tuple)):
        net.init_cfg = [one for one in init if not pretrained(one)]
    elif pretrained(init):
        del net.init_cfg


def plain_config(cfg: Config, model: ConfigDict | None = None) -> Config:
    """Return the config of the student alone, for mmpretrain, mmdet or mmseg.

    It holds the model, its preprocessing and the evaluation settings. It imports
    ``cakd_mm`` only if one of these uses a class of this package.

    Args:
        cfg (Config): The distillation config.
        model (ConfigDict, optional): The student's. Defaults to None, that of
            :func:`student_model`.
    """
    model = student_model(cfg) if model is None else model
    task = student_task(cfg)
    preprocessor = cfg.get('data_preprocessor') or cfg.model.get('data_preprocessor')
    if preprocessor is None:
        student = net_config(cfg.model.architecture, 'model.architecture')
        preprocessor = student.get('data_preprocessor')
    plain = dict(default_scope=task.scope, model=model)
    if preprocessor is not None:
        preprocessor = copy.deepcopy(preprocessor)
        preprocessor.pop('_scope_', None)
        if 'type' not in preprocessor:
            for name in OF_TRAINING:
                preprocessor.pop(name, None)
        task.put_preprocessor(plain, preprocessor)
    plain.update(
        {k: copy.deepcopy(cfg[k]) for k in EVALUATION if cfg.get(k) is not None}
    )
    test = plain.get('test_dataloader') or plain.get('val_dataloader') or {}
    if 'pipeline' in test.get('dataset', {}):
        # mmdeploy looks for both.
        plain['test_pipeline'] = copy.deepcopy(test['dataset']['pipeline'])
        backends = [dict(type='LocalVisBackend')]
        plain['visualizer'] = dict(type=task.visualizer, vis_backends=backends)
    if 'test_evaluator' in plain:
        plain['test_cfg'] = dict()
    if 'val_evaluator' in plain:
        plain['val_cfg'] = dict()
    plain = as_written(plain, dict)
    if _uses_ours(plain, task.scope):
        plain['custom_imports'] = dict(imports=['cakd_mm'], allow_failed_imports=False)
    return Config(plain)


def student_task(cfg: Config) -> Task:
    """Return the task of the student of a distillation's config."""
    return task_of_config(net_config(cfg.model.architecture, 'model.architecture'))


def _uses_ours(node: Any, scope: str) -> bool:
    """Return whether any ``type`` in a config is a class of this package."""
    if isinstance(node, Mapping):
        name = node.get('type')
        if isinstance(name, str) and _defined_here(name, scope):
            return True
        return any(_uses_ours(value, scope) for value in node.values())
    return isinstance(node, (list, tuple)) and any(_uses_ours(v, scope) for v in node)


def _defined_here(name: str, scope: str) -> bool:
    own: Any = import_module(f'{scope}.registry')
    with DefaultScope.overwrite_default_scope(scope):
        for registry in (own.MODELS, own.DATASETS):
            with suppress(RuntimeError):  # mmengine's of a scope without that name
                found = registry.get(name)
                if found is not None and found.__module__.startswith('cakd_mm.'):
                    return True
    return False


def save_student(
    cfg: Config, weights: Mapping[str, Tensor], path: Path, meta: dict | None = None
) -> Path:
    """Write a plain checkpoint and its config, load them back and compare.

    Args:
        cfg: The distillation config.
        weights: The student's weights, see :func:`student_weights`.
        path: Where the checkpoint goes; the config gets the suffix ``.py``.
        meta: Metadata of the checkpoint (``dataset_meta``, ``epoch``, ...). Defaults
            to None (nothing).

    Returns:
        Path: ``path``.

    Raises:
        RuntimeError: the student that is loaded back from the two files does not give
            exactly the outputs of the trained one, or, if a neck of it went into the
            head, those up to rounding.
    """
    trained = build_student(cfg, weights)
    # It has the versions of modules, without which some nets of torchvision load none.
    saved = trained.state_dict()
    saved.update({k: v.detach().cpu().clone() for k, v in weights.items()})
    model = student_model(cfg)
    is_folded = _fold(trained, model, saved)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        torch.save(dict(meta=meta or {}, state_dict=saved), file)
    text = plain_config(cfg, model).pretty_text
    write_whole(path.with_suffix('.py'), text.encode())
    _prove_equal(trained, path, ROUNDING if is_folded else 0.0)
    return path


def _fold(trained: nn.Module, model: ConfigDict, saved: dict[str, Tensor]) -> bool:
    """Put the weights of a neck into the head, if neck and head allow it.

    Config and weights of the plain student are changed. Such a neck has a method
    ``folded_into``, see :class:`NORMNeck`.

    Returns:
        bool: Whether it was done.
    """
    fold = getattr(getattr(trained, 'neck', None), 'folded_into', None)
    folded = None if fold is None else fold(getattr(trained, 'head', None))
    if folded is None:
        return False
    model.neck, head = folded
    for name in [name for name in saved if name.startswith('neck.')]:
        del saved[name]
    saved.update({f'head.{name}': weight for name, weight in head.items()})
    return True


def build_student(cfg: Config, weights: Mapping[str, Tensor]) -> nn.Module:
    """Build the student as the distillation run did, and load it strictly."""
    net = net_config(cfg.model.architecture, 'model.architecture')
    with DefaultScope.overwrite_default_scope(task_of_config(net).scope):
        student = MODELS.build(net)
    load_strictly(student, weights, KEY, cfg.filename, 'Give the config it belongs to.')
    return student


@torch.no_grad()
def _prove_equal(trained: nn.Module, path: Path, tolerance: float = 0.0) -> None:
    plain, task = Config.fromfile(path.with_suffix('.py')), task_of(trained)
    with (
        DefaultScope.overwrite_default_scope(task.scope),
        without_printed(),
    ):
        loaded = task.load(plain, str(path))
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(2, *task.image_shape(plain), generator=generator)
        want, got = (task.outputs(net.eval(), images) for net in (trained, loaded))
    if not _are_equal(got, want, tolerance):
        raise RuntimeError(
            f'{path} loaded back through its config does not give the outputs of '
            'the trained student; the files are not to be trusted.'
        )


def _are_equal(got: Any, want: Any, tolerance: float) -> bool:
    """Tell whether what two nets gave is the same, in whatever it is nested."""
    if isinstance(want, BaseDataElement):
        got, want = dict(got.all_items()), dict(want.all_items())
    if isinstance(want, Tensor):
        return torch.equal(got, want) or _is_near(got, want, tolerance)
    if isinstance(want, Mapping):
        same = got.keys() == want.keys()
        return same and all(_are_equal(got[x], want[x], tolerance) for x in want)
    if isinstance(want, (list, tuple)):
        pairs = zip(got, want, strict=False)
        return len(got) == len(want) and all(
            _are_equal(one, other, tolerance) for one, other in pairs
        )
    return bool(got == want)


def _is_near(got: Tensor, want: Tensor, tolerance: float) -> bool:
    if got.shape != want.shape or not tolerance:
        return False
    return bool(((got - want).abs() <= tolerance * want.abs().amax()).all())
