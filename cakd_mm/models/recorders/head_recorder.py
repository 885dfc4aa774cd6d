"""Records the scores of a head as it gives them without labels."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement
from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder
from torch import Tensor, nn
from torch.func import functional_call

from ...utils.compiling import is_compiling
from ...utils.errors import describe
from .tap_recorder import TapRecorder


class HeadRecorder(ModuleOutputsRecorder):
    """Records what a head gives for features alone, as in prediction.

    ArcFace and its kind take the labels beside the features in training, and change the
    logit of the label by a margin. A teacher is not given labels, so that its logits
    have no margin, and nothing could be learned from their difference. Such a head
    therefore runs a second time, without labels, and that output is recorded. Running
    statistics do not change in the second run. A head that is given no labels runs
    once.

    Labels are told by their values: samples, tensors of integers, or numbers in the
    shape of the scores (labels that are mixed). All else that a head is given it has in
    the second run, too. The log names what is left out.

    A distiller puts it in the place of every ``ModuleOutputs`` whose source is a head.

    Attributes:
        key (str): As in :class:`TapRecorder`.

    Raises:
        ValueError: the head cannot run without labels.
    """

    key = TapRecorder.key
    _left_out: list[str] | None = None

    def prepare_from_model(self, model: nn.Module) -> None:
        """Hook the recorder up."""
        head = model.get_submodule(self.source)
        parameters = signature(head.forward)
        try:
            parameters.bind(None)
        except TypeError:
            problem = f'{type(head).__name__}.forward{parameters} does not run without '
            problem += 'labels, so that its scores would carry a margin, say.'
            remedy = 'Record the scores before the labels change them, or give the '
            remedy += "argument of the labels a default: target=None, as ArcFace's."
            raise ValueError(describe(self.key, self.source, problem, remedy)) from None
        head.register_forward_hook(self._record, with_kwargs=True)

    def _record(
        self, head: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any
    ) -> None:
        if not self.recording:
            return
        if len(args) + len(kwargs) == 1:
            self.data_buffer.append(output)
            return
        given = signature(head.forward).bind(*args, **kwargs)
        shape = getattr(output, 'shape', None)
        besides = list(given.arguments.items())[1:]  # the features are the first
        labels = [name for name, value in besides if _has_labels(value, shape)]
        if not labels:
            self.data_buffer.append(output)
            return
        if labels != self._left_out and not is_compiling():
            self._left_out = labels
            text = f'{type(head).__name__} is recorded without {", ".join(labels)}: '
            text += 'what is recorded of it are its scores without labels.'
            print_log(text, 'current')
        for name in labels:
            del given.arguments[name]
        buffers = {name: value.clone() for name, value in head.named_buffers()}
        # This call comes back to this hook, which records it.
        functional_call(head, buffers, given.args, given.kwargs)


def _has_labels(value: Any, shape: torch.Size | None) -> bool:
    """Tell whether an argument of a head that gives scores of a shape has labels."""
    if isinstance(value, BaseDataElement):
        return True
    if isinstance(value, Tensor):
        is_float = value.is_floating_point()
        return value.shape == shape if is_float else value.dim() > 0
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return False
    return any(_has_labels(each, shape) for each in value)


def is_head(module: nn.Module) -> bool:
    """Return whether a module computes a loss of its own from labels."""
    return callable(getattr(module, 'loss', None))
