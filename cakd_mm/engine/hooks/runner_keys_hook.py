"""Refuses top-level keys of a config that would train its model wrong."""

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.registry import HOOKS
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ...models.algorithms import FrozenTeacherDistill
from ...utils.errors import describe, nearest
from ...utils.model import unwrap

CHECKPOINTING = 'activation_checkpointing'
FUSION = 'efficient_conv_bn_eval'


@HOOKS.register_module()
class RunnerKeysHook(Hook):
    """Look at what mmengine does to a model beside building it.

    These are ``model_wrapper_cfg``, and the parts of the model that
    ``activation_checkpointing`` and ``efficient_conv_bn_eval`` name. Put it into
    ``default_hooks``.

    Raises:
        TypeError: what should name parts does not.
        ValueError: there is no such part, or the key does not go with it.
    """

    def before_run(self, runner) -> None:
        """Look at the keys before mmengine acts on the last two."""
        model = unwrap(runner.model)
        if isinstance(model, FrozenTeacherDistill):
            _check_wrapper(runner.model)
        teacher = getattr(model, 'teacher', None)
        frozen = set(teacher.modules()) if isinstance(teacher, nn.Module) else set()
        for name, part in _parts(model, runner.cfg, CHECKPOINTING):
            if part in frozen:
                problem = 'The teacher runs without gradients, for which alone '
                problem += 'something is kept.'
                remedy = 'Name parts of the student: architecture.backbone, say.'
                raise ValueError(describe(CHECKPOINTING, name, problem, remedy))
        for name, part in _parts(model, runner.cfg, FUSION):
            _check_hooks(name, part)
            _check_trace(name, part)


def _check_wrapper(model: nn.Module) -> None:
    """Refuse wrappers that run, or keep, the parts of a distillation one by one."""
    if is_model_wrapper(model) and not isinstance(model, MMDistributedDataParallel):
        raise ValueError(refusal_of_wrapper(type(model).__name__))


def refusal_of_wrapper(name: str) -> str:
    """Return the text of the error that a distillation has another wrapper."""
    problem = 'Teacher, student and distiller are run and saved together, which this '
    problem += 'wrapper does not do.'
    remedy = 'Remove it, or write a subclass of MMDistributedDataParallel; '
    remedy += "model.teacher_shard=True shares out a big teacher's weights."
    return describe('model_wrapper_cfg.type', name, problem, remedy)


def _parts(model: nn.Module, cfg: Any, key: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield name and module of the parts that a key names.

    Raises:
        TypeError: it is neither a name nor a list of names.
        ValueError: the model has no such part.
    """
    names = cfg.get(key)
    listed = names if isinstance(names, (list, tuple)) else [names]
    for name in [] if names is None else listed:
        if not isinstance(name, str):
            problem = 'These are no names of parts.'
            remedy = f"Write {key}=['architecture.backbone'], say."
            raise TypeError(describe(key, names, problem, remedy))
        try:
            part = attrgetter(name)(model)
        except AttributeError:
            part = None
        if not isinstance(part, nn.Module):
            known = [path for path, _ in model.named_modules() if path]
            inside = [path for path in known if path.endswith(f'.{name}')]
            problem = f'{type(model).__name__} has no such part.'
            remedy = f'Write one of {nearest(name, inside or known)}.'
            raise ValueError(describe(key, name, problem, remedy))
        yield name, part


def _check_hooks(name: str, part: nn.Module) -> None:
    """Refuse a part within which hooks, of recorders say, would not be called.

    mmengine runs the layers of such a part by themselves, and a convolution together
    with the normalisation after it.
    """
    is_layer = fx.Tracer().is_leaf_module
    for path, module in part.named_modules():
        if not path or not (module._forward_hooks or module._forward_pre_hooks):
            continue
        if isinstance(module, (_ConvNd, _BatchNorm)) or not is_layer(module, path):
            problem = f'{name}.{path} is recorded, or has another hook, which would '
            problem += 'not be called.'
            remedy = 'Name parts that have it not within them, or remove the key.'
            raise ValueError(describe(FUSION, name, problem, remedy))


def _check_trace(name: str, part: nn.Module) -> None:
    """Refuse a part that is not the same sequence of layers in training and scoring."""
    modes = {module: module.training for module in part.modules()}
    try:
        codes = [fx.symbolic_trace(part.train(mode)).code for mode in (True, False)]
    except Exception as error:  # It runs code of the part's own on no numbers.
        problem = f'torch.fx cannot read what it computes ({error}).'
        remedy = 'Name parts within it: a backbone, say, or a stage of one.'
        raise ValueError(describe(FUSION, name, problem, remedy)) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if codes[0] != codes[1]:
        problem = 'It computes otherwise in training than in scoring (drop_path, say), '
        problem += 'and mmengine would keep one of the two.'
        remedy = 'Name parts within it that do not, or remove the key.'
        raise ValueError(describe(FUSION, name, problem, remedy))
