"""A net of another project in the place of backbone, neck and head."""

from typing import Any

from mmpretrain.models import BaseClassifier
from mmpretrain.registry import MODELS
from torch import nn

from ...utils.errors import describe


class PlainNet(BaseClassifier):
    """What mmpretrain's classifiers of other projects have, around a net that is built.

    A class inherits from it and from :class:`mmpretrain.TimmClassifier` or
    :class:`mmpretrain.HuggingFaceClassifier`, which compute losses and predictions. The
    weights have the names that they have in ``model``.

    Args:
        model (nn.Module): The net, which has initialised itself.
        loss (dict, optional): Config of the loss between scores and labels. Defaults to
            None, the cross entropy.
        train_cfg (dict, optional): ``augments``, the batch augmentations.
        data_preprocessor (dict, optional): Config of the preprocessor.
        init_cfg (dict, optional): Config of the initialisation.
    """

    _add_state_dict_prefix: Any
    _remove_state_dict_prefix: Any

    def __init__(
        self,
        model: nn.Module,
        loss: dict | nn.Module | None = None,
        train_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        preprocessor: dict = {'type': 'mmpretrain.ClsDataPreprocessor'}
        preprocessor |= data_preprocessor or {}
        if train_cfg is not None and 'augments' in train_cfg:
            preprocessor['batch_augments'] = train_cfg
        # That of the next class would build a net.
        BaseClassifier.__init__(self, init_cfg, preprocessor)
        self.model = model
        # mmengine would call its `init_weights` once more.
        setattr(self.model, 'is_init', True)  # noqa: B010
        loss = loss or dict(type='CrossEntropyLoss', loss_weight=1.0)
        self.loss_module = loss if isinstance(loss, nn.Module) else MODELS.build(loss)
        self._register_state_dict_hook(self._remove_state_dict_prefix)
        self._register_load_state_dict_pre_hook(self._add_state_dict_prefix)


def refuse_pretrained(given: dict[str, Any]) -> None:
    """Refuse to download weights.

    Args:
        given (dict): Arguments of a net. Those that ask for weights are removed if they
            say no.

    Raises:
        ValueError: one says yes; the message says where weights are named instead.
    """
    for name in ('weights', 'pretrained'):
        value = given.pop(name, None)
        if value:
            problem = 'Nothing is downloaded.'
            remedy = 'Save the weights into a file, and name it in model.teacher_ckpt '
            remedy += 'or model.student_ckpt.'
            raise ValueError(describe(name, value, problem, remedy))
