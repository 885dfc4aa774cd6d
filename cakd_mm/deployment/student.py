"""A plain student, read from the two files that extraction writes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmpretrain import get_model
from mmpretrain.registry import MODELS
from torch import nn

from ..compat import without_printed
from ..tasks import task_of_config
from ..utils.building import naming_errors
from ..utils.checkpoint import (
    STUDENT_PREFIX,
    load_strictly,
    read_checkpoint,
    strip_prefix,
    unwrapped,
)
from ..utils.class_names import Names, names_in_checkpoint
from ..utils.errors import describe
from ..utils.model import trunk_of
from ..utils.net_config import read_named
from ..utils.tools import typed_here


@dataclass(frozen=True)
class Student:
    """A net that scores images, with what is known about it.

    Args:
        net (nn.Module): A classifier of mmpretrain in eval mode, without gradients.
        cfg (Config): Its plain config.
        classes (tuple[str, ...], optional): Names in the order of the scores.
        bytes (int): The size of its checkpoint.
    """

    net: nn.Module
    cfg: Config
    classes: Names | None
    bytes: int

    @property
    def kind(self) -> str:
        """What the net is called in errors, by its class and its backbone's."""
        trunk = trunk_of(self.net)
        inner = '' if trunk is self.net else f' of {type(trunk).__name__}'
        return f'{type(self.net).__name__}{inner}'


def read_student(config: str, checkpoint: str) -> Student:
    """Read a plain student, on the CPU.

    Args:
        config (str): ``student.py``, or another plain config of a classifier.
        checkpoint (str): ``student.pth``, or another checkpoint of that classifier.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: one of them is that of a distillation, the weights do not fit, or
            the net cannot be built.
    """
    remedy = 'Give a student.pth, which training leaves in its work dir.'
    saved = read_checkpoint(checkpoint, 'checkpoint', remedy)
    cfg = read_named(config, 'config')
    weights = unwrapped(saved.get('state_dict', saved))
    _require_plain(cfg, config, weights, checkpoint)
    with naming_errors(cfg.get('model'), MODELS, 'model'), without_printed():
        net = get_model(cfg)
    remedy = 'Give the config that lies beside the checkpoint.'
    load_strictly(net, weights, 'checkpoint', checkpoint, remedy)
    size = Path(checkpoint).expanduser().stat().st_size
    net.eval().requires_grad_(False)
    return Student(net, cfg, names_in_checkpoint(saved), size)


def _require_plain(cfg: Config, config: str, weights: Mapping, checkpoint: str) -> None:
    """Refuse a config and a checkpoint of a distillation; say how to extract."""
    is_trainings = 'architecture' in cfg.get('model', {})
    if strip_prefix(weights, STUDENT_PREFIX):
        problem = 'It is a checkpoint of a distillation, with more than the student.'
        own = config if is_trainings else 'CONFIG'
        remedy = f'Type {typed_here("extract")} {own} {checkpoint}'
        remedy += '' if is_trainings else ', where CONFIG is that of the distillation'
        remedy += ', and export the two files that it writes.'
        raise ValueError(describe('checkpoint', checkpoint, problem, remedy))
    scope = cfg.get('default_scope', 'mmpretrain')
    task = task_of_config(cfg.get('model') or {}, scope)
    if not is_trainings and task.is_dense:
        problem = f'It is the config of a net of {task.name}, and classifiers are '
        problem += 'exported here.'
        remedy = f'Export it with what its project, {task.scope}, has for that.'
        raise ValueError(describe('config', config, problem, remedy))
    if is_trainings:
        problem = 'It is the config of a distillation, and no plain one.'
        remedy = f'Give the .py that lies beside {checkpoint}.'
        raise ValueError(describe('config', config, problem, remedy))
