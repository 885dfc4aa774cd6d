"""Classifiers of torchvision."""

from inspect import signature
from typing import Any

from mmpretrain.models import TimmClassifier
from mmpretrain.registry import MODELS
from torch import nn
from torchvision import models

from ...utils.errors import describe, nearest
from .plain_net import PlainNet, refuse_pretrained


@MODELS.register_module()
class TorchvisionClassifier(PlainNet, TimmClassifier):
    """A classifier of torchvision, such as ``resnet50`` or ``vit_b_16``.

    Weights that torchvision publishes, and those of its own training scripts, load as
    they are. The auxiliary classifiers of GoogLeNet and Inception are left out. Their
    published weights want ``transform_input=True``.

    Args:
        model_name (str): The name in torchvision, see
            :func:`torchvision.models.list_models`.
        num_classes (int): Number of classes. 0 leaves out the classifier; the net then
            gives what the classifier would be given, (N, C). Defaults to 1000.
        loss, train_cfg, data_preprocessor, init_cfg: As in
            :class:`mmpretrain.TimmClassifier`.
        **kwargs: Of torchvision's function of that name, ``dropout`` say.

    Raises:
        ValueError: there is no classifier of that name, weights are asked for, or the
            number of classes is negative.
        TypeError: torchvision's function does not take an argument.
    """

    passes_on = False  # `kwargs` are torchvision's.

    def __init__(
        self,
        model_name: str,
        num_classes: int = 1000,
        loss: dict | nn.Module | None = None,
        train_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list | None = None,
        **kwargs: Any,
    ) -> None:
        known = models.list_models(module=models)
        if model_name not in known:
            problem = 'torchvision has no classifier of that name.'
            remedy = f'Like it: {nearest(model_name, known)}.'
            raise ValueError(describe('model_name', model_name, problem, remedy))
        refuse_pretrained(kwargs)
        if num_classes < 0:
            problem, remedy = 'It is negative.', 'Write 0 for a net without classifier.'
            raise ValueError(describe('num_classes', num_classes, problem, remedy))
        kind = signature(models.get_model_builder(model_name)).return_annotation
        if 'aux_logits' in signature(kind).parameters:
            if kwargs.get('aux_logits'):
                problem = 'The auxiliary classifiers would not be trained.'
                remedy = 'Leave it out; weights of them in a file are left out too.'
                raise ValueError(describe('aux_logits', True, problem, remedy))
            # With them a net gives several scores in training, and torchvision warns
            # where it is not said how these nets are initialised.
            kwargs = {'init_weights': True, **kwargs, 'aux_logits': False}
        net = models.get_model(
            model_name, weights=None, num_classes=num_classes or 1, **kwargs
        )
        # The layers are in the order in which they are used.
        classifier = [*net.state_dict()][-1].rpartition('.')[0]
        if not num_classes:
            owner, _, leaf = classifier.rpartition('.')
            setattr(net.get_submodule(owner), leaf, nn.Identity())
        super().__init__(net, loss, train_cfg, data_preprocessor, init_cfg)
        self.num_classes = num_classes
        self.optional_layers = (classifier, 'AuxLogits', 'aux1', 'aux2')
