"""Tasks: what nets are for, and how the package deals with each kind of them."""

from collections.abc import Mapping
from typing import Any

from mmrazor.registry import MODELS
from torch import nn

from ..utils.arguments import class_of
from .classification import Classification
from .detection import Detection
from .segmentation import Segmentation
from .task import Task

TASKS: tuple[Task, ...] = (Classification(), Detection(), Segmentation())


def task_of_class(kind: type) -> Task:
    """Return the task of a class of nets; of others it is classification."""
    return next((task for task in TASKS if task.is_of(kind)), TASKS[0])


def task_of(net: nn.Module) -> Task:
    """Return the task of a net; of one of an unknown kind it is classification."""
    return task_of_class(type(net))


def task_of_config(net: Mapping[str, Any], scope: str = Classification.scope) -> Task:
    """Return the task of the net of a config.

    Args:
        net (Mapping): Its whole config, see :func:`net_config`.
        scope (str): Where its type is found, unless it has a ``_scope_``. Defaults to
            ``'mmpretrain'``.
    """
    scoped = {'_scope_': scope, **net}
    try:
        kind = class_of(scoped, MODELS, 'model')
    except (KeyError, TypeError):  # who builds it says so
        return TASKS[0]
    return task_of_class(kind) if isinstance(kind, type) else TASKS[0]


__all__ = ['TASKS', 'Task', 'task_of', 'task_of_class', 'task_of_config']
