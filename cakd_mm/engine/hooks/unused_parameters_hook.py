"""Lets several ranks train on where some parameters get no gradient."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmrazor.engine import StopDistillHook
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ...models.distillers.first_step import edges_behind
from ...models.recorders.watched import tensors_of
from ...utils.errors import describe, first_of
from ...utils.model import (
    exchangeable_parameters,
    exchanged_parameters,
    is_of_all_ranks,
)

KEY = 'find_unused_parameters'
WRITE = f'Write {KEY}=True, or where there is one model_wrapper_cfg.{KEY}=True.'
STATIC = 'model_wrapper_cfg.static_graph'
LEAVE_OUT = 'Leave it out.'
# What runs its layers once more in the backward pass, and shows none of them before.
REENTRANT = 'CheckpointFunctionBackward'


@HOOKS.register_module()
class UnusedParametersHook(Hook):
    """Set ``find_unused_parameters`` where some parameters get no gradient.

    PyTorch's ``DistributedDataParallel`` waits for the gradient of every parameter, and
    stops a step later if one gets none: a connector once distillation has stopped, the
    head if nothing compares its scores, a token or a head that no loss uses. In the
    first step of each epoch the graph of the losses is looked through before the
    backward pass; without those of the distillation, if mmrazor's ``StopDistillHook``
    ends it. If a parameter is not in it on any rank, the wrapper is told to look for
    such parameters from then on, and the log names them. They stay as they are, as with
    one rank. If other layers are trained than in the step before, because a hook has
    frozen some or has let some go, the wrapper exchanges the gradients of those. After
    a checkpoint of ``WholeCheckpointHook`` the wrapper is made anew, as it is in a
    resumed run, so that both train the same. Put it into ``default_hooks``. It does
    nothing for one rank or for another wrapper. What gets no gradient later is left to
    :class:`ExchangedGradientsHook`.

    Raises:
        ValueError: the wrapper cannot be told, because it has another process group or
            a communication hook, its graph is static, its training step is compiled, or
            layers are checkpointed that PyTorch runs twice.
    """

    # After hooks that copy the model in their first step, or change what is trained.
    priority = 'LOWEST'
    _is_due = False
    _had_stopped = False
    _logged = ''
    # All parameters, because finding them in each step would take long.
    _parameters: dict[str, nn.Parameter]
    # Names of those whose gradients the wrapper exchanges.
    _exchanged: set[str]
    # What the config says, from which a resumed run starts again.
    _find_unused: bool
    _stops: bool

    def before_run(self, runner) -> None:
        """Note for which parameters the model was wrapped."""
        if _is_ddp(runner.model):
            self._find_unused = runner.model.find_unused_parameters
            self._parameters = exchangeable_parameters(runner.model)
            self._exchanged = set(exchanged_parameters(runner.model))

    def after_checkpoint(self, runner) -> None:
        """Go on as a run does that is resumed from this checkpoint.

        After its first step a wrapper puts gradients into other buckets, and from three
        ranks on the last bit of their sum depends on their places in a bucket.
        """
        wrapper = runner.model
        if _is_ddp(wrapper) and _can_be_told(wrapper) and is_of_all_ranks(wrapper):
            _renew(wrapper, self._find_unused)
            self._exchanged = set(exchanged_parameters(wrapper))
            self._is_due = True

    def before_train(self, runner) -> None:
        """Find out whether distillation is going to stop."""
        stops = [
            hook.stop_epoch
            for hook in runner.hooks
            if isinstance(hook, StopDistillHook) and hook.stop_epoch < runner.max_epochs
        ]
        self._stops = bool(stops)
        if stops and _is_ddp(runner.model) and not _can_be_told(runner.model):
            self._refuse_stop(runner, max(stops))

    def _refuse_stop(self, runner, epoch: int) -> None:
        """Refuse a stop that a wrapper which cannot be told would not survive."""
        wrapper = runner.model
        if not any(name.startswith('distiller.') for name in self._exchanged):
            return
        problem = f'mmrazor.StopDistillHook stops at epoch {epoch}, and then parts of '
        problem += 'the distiller get no gradient, for which ranks would wait.'
        # A graph in which the distillation never was does not change.
        if wrapper.static_graph and runner.epoch < epoch:
            raise ValueError(describe(STATIC, True, problem, LEAVE_OUT))
        if not wrapper.static_graph and not wrapper.find_unused_parameters:
            raise ValueError(describe(KEY, False, problem, WRITE))

    def _refuse_thawed(self, runner, names: set[str]) -> None:
        """Refuse to train layers whose gradients ranks would not exchange."""
        if names and get_world_size() > 1:
            problem = f'A hook lets {min(names)} be trained only now, and ranks would '
            problem += 'not exchange its gradients.'
            key, value = STATIC, True
            if not runner.model.static_graph:
                key, value = 'compile', runner.cfg['compile']
            raise ValueError(describe(key, value, problem, LEAVE_OUT))

    def before_train_epoch(self, runner) -> None:
        """Look at the first step of the epoch, for which hooks may change the model."""
        self._is_due = True

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Let the losses of this step be looked at, if others may be computed."""
        if not _is_ddp(runner.model):
            return
        changed = [
            name
            for name, parameter in self._parameters.items()
            if parameter.requires_grad != (name in self._exchanged)
        ]
        if not _can_be_told(runner.model):
            self._refuse_thawed(runner, set(changed) - self._exchanged)
            return
        model = runner.model.module
        has_stopped = getattr(model, 'distillation_stopped', False)
        if self._is_due or changed or has_stopped != self._had_stopped:
            self._is_due, self._had_stopped = False, has_stopped
            look = partial(self._look, runner)
            self._handle = model.register_forward_hook(look)

    def _look(self, runner, model: nn.Module, _: Any, losses: Any) -> None:
        """Compare what gets a gradient with what the wrapper waits for."""
        self._handle.remove()
        wrapper = runner.model
        trained = exchanged_parameters(wrapper)
        unused: list[str] = []
        if not wrapper.find_unused_parameters:
            unused = _unused(trained, _lasting(losses, self._stops))
        if not unused and trained.keys() == self._exchanged:
            return
        left = (self._exchanged - trained.keys()).union(unused)
        _average_pending([p for name, p in self._parameters.items() if name in left])
        self._exchanged = set(trained)
        _tell(wrapper, bool(unused))
        text = f'Ranks exchange the gradients of {len(trained)} parameters from here on'
        if unused:
            why = 'distillation stops' if self._stops else 'no loss uses them'
            text += f', with {KEY}=True, because {len(unused)} get none ({why}): '
            text += first_of(unused)
        if text != self._logged:
            runner.logger.info(f'{text}.')
        self._logged = text


def _is_ddp(model: nn.Module) -> bool:
    return isinstance(model, DistributedDataParallel) and hasattr(model, 'reducer')


def _can_be_told(model: Any) -> bool:
    # mmengine puts the compiled step there, which would keep the hook for good.
    return not model.static_graph and 'train_step' not in vars(model)


def _average_pending(parameters: list[nn.Parameter]) -> None:
    """Average over ranks what steps have accumulated that ranks no longer exchange."""
    if not parameters:
        return
    has = [parameter.grad is not None for parameter in parameters]
    flags = torch.tensor(has, dtype=torch.int32, device=parameters[0].device)
    all_reduce(flags, 'max')
    for parameter, has_gradient in zip(parameters, flags.tolist(), strict=True):
        if has_gradient:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            all_reduce(parameter.grad, 'mean')


def _lasting(losses: Any, stops: bool) -> Any:
    """Return the losses that mmengine adds up, also once distillation stops."""
    if not isinstance(losses, Mapping):
        return losses
    return [
        value
        for name, value in losses.items()
        if 'loss' in name and not (stops and name.startswith('distill.'))
    ]


def _unused(trained: Mapping[str, nn.Parameter], losses: Any) -> list[str]:
    """Return the names of parameters that get no gradient on one of the ranks."""
    nodes = {node for node, _ in edges_behind(tensors_of(losses))}
    found = {id(node.variable) for node in nodes if hasattr(node, 'variable')}
    is_whole = not any(type(node).__name__ == REENTRANT for node in nodes)
    # What is hidden belongs to a net, because losses and connectors are not run twice.
    lost = [
        id(parameter) not in found and (is_whole or name.startswith('distiller.'))
        for name, parameter in trained.items()
    ]
    device = next((parameter.device for parameter in trained.values()), None)
    flags = torch.tensor([not is_whole, *lost], dtype=torch.int32, device=device)
    all_reduce(flags, 'max')
    is_hidden, *is_lost = flags.tolist()
    unused = [name for name, flag in zip(trained, is_lost, strict=True) if flag]
    if is_hidden and unused:
        problem = f'{unused[0]} gets no gradient, and without {KEY}=True ranks would '
        problem += 'wait for it; but layers are checkpointed, which excludes it.'
        remedy = 'Write with_cp=False in model.architecture.backbone, or '
        remedy += 'activation_checkpointing=None.'
        raise ValueError(describe(KEY, False, problem, remedy))
    return unused


def _tell(wrapper: DistributedDataParallel, find_unused: bool) -> None:
    """Let a wrapper wait for other gradients, in the midst of a forward pass."""
    if not is_of_all_ranks(wrapper):
        problem = 'Some parameters get no gradient, and a wrapper with a process group '
        problem += 'or a communication hook of its own cannot be told so later.'
        raise ValueError(describe(KEY, wrapper.find_unused_parameters, problem, WRITE))
    _renew(wrapper, wrapper.find_unused_parameters or find_unused)
    wrapper.reducer.prepare_for_forward()


def _renew(wrapper: DistributedDataParallel, find_unused: bool) -> None:
    """Make a wrapper anew as after unpickling, which keeps what others hold of it."""
    wrapper.__setstate__({**wrapper.__getstate__(), KEY: find_unused})
