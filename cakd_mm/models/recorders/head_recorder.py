"""Records the scores of a head as it gives them without labels."""

from inspect import signature
from typing import Any

from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder
from torch import nn
from torch.func import functional_call

from ...utils.errors import describe
from .tap_recorder import TapRecorder


class HeadRecorder(ModuleOutputsRecorder):
    """Records what a head gives for features alone, as in prediction.

    ArcFace and its kind take the labels beside the features in training, and change the
    logit of the label by a margin. A teacher is not given labels, so that its logits
    have no margin, and nothing could be learned from their difference. Such a head
    therefore runs a second time, without labels, and that output is recorded. Running
    statistics do not change in the second run. A head that is given its features alone
    runs once.

    A distiller puts it in the place of every ``ModuleOutputs`` whose source is a head.

    Attributes:
        key (str): As in :class:`TapRecorder`.

    Raises:
        ValueError: the head cannot run without labels.
    """

    key = TapRecorder.key

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
        given = signature(head.forward).bind(*args, **kwargs).arguments
        buffers = {name: value.clone() for name, value in head.named_buffers()}
        # This call comes back to this hook, which records it.
        functional_call(head, buffers, (next(iter(given.values())),))


def is_head(module: nn.Module) -> bool:
    """Return whether a module computes a loss of its own from labels."""
    return callable(getattr(module, 'loss', None))
