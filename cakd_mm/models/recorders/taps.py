"""Where the features that distillation compares are: one set of names for all nets."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from warnings import filterwarnings

from mmpretrain.models import DeiTClsHead
from mmpretrain.models.backbones import MobileNetV2, ResNet
from torch import nn

from ...utils.errors import describe, nearest


@dataclass(frozen=True)
class Point:
    """A place in a classifier.

    Args:
        module (str): Name of the module.
        takes_input (bool): Whether the place is the input of the module's last call in
            a forward, instead of its output. Defaults to False.
        channels (int, optional): Width of what is there. Defaults to None (unknown).
        prepare (Callable, optional): What has to be done to the net before it is taught
            there. Defaults to None.
    """

    module: str
    takes_input: bool = False
    channels: int | None = None
    prepare: Callable[[nn.Module], None] | None = None


def points_of(model: nn.Module) -> dict[str, Point]:
    """Return the places of a classifier by name.

    ``stage1`` is the map after the last activation of the first stage, ``stage1_pre``
    the map before that activation, ``stage1_norm`` the normalisation layer that makes
    ``stage1_pre``, and ``pooled`` is what the classifier's head gets. The nets written
    here and mmpretrain's ResNets and MobileNetV2 have all of them, other nets have
    ``pooled`` alone. DeiT's head has ``class_logits`` and ``token_logits`` of its two
    classifiers, and what they get, ``class_token`` and ``distillation_token``; see
    :func:`teach_token_apart`. The places of several teachers begin with a teacher's
    name: ``r50.stage1``.
    """
    backbone: Any = getattr(model, 'backbone', None)
    points: dict[str, Point] = {}
    if hasattr(backbone, 'tap_channels'):
        points = {
            name: Point(f'backbone.{name}', channels=width)
            for name, width in backbone.tap_channels.items()
        }
        points |= {
            f'{stage}_norm': Point(f'backbone.{path}')
            for stage, path in backbone.norms.items()
        }
    elif isinstance(backbone, ResNet):
        points = _resnet(backbone)
    elif isinstance(backbone, MobileNetV2):
        points = _mobilenet(backbone)
    points.pop('pooled', None)
    if getattr(model, 'neck', None) is not None:
        width = getattr(getattr(model, 'head', None), 'in_channels', None)
        points['pooled'] = Point('neck', channels=width)
    if isinstance(getattr(model, 'head', None), DeiTClsHead):
        points |= _deit(model.head)
    for teacher, net in getattr(model, 'teachers', {}).items():
        for name, point in points_of(net).items():
            module = f'{teacher}.{point.module}'
            points[f'{teacher}.{name}'] = replace(point, module=module, prepare=None)
    return points


def find_point(model: nn.Module, name: str, key: str) -> Point:
    """Return the place of that name.

    Args:
        model (nn.Module): A classifier.
        name (str): As :func:`points_of` has it.
        key (str): The config key, for the error.

    Raises:
        ValueError: the net has no such place.
    """
    points = points_of(model)
    if name not in points:
        kind = type(getattr(model, 'backbone', model)).__name__
        like = nearest(name, points)
        problem = f'{kind} has no place of that name; like it: {like}.'
        remedy = "Name one of those, or any module with type='ModuleOutputs'."
        raise ValueError(describe(key, name, problem, remedy))
    return points[name]


def _resnet(backbone: ResNet) -> dict[str, Point]:
    """Return the places of mmpretrain's ResNets.

    A block has one ReLU and calls it last on the sum.
    """
    points = {}
    for index, layer in enumerate(backbone.res_layers, 1):
        stage = getattr(backbone, layer)
        last = f'backbone.{layer}.{len(stage) - 1}'
        width = stage[-1].out_channels
        norm = getattr(stage[-1], 'norm3_name', None) or stage[-1].norm2_name
        points[f'stage{index}'] = Point(f'backbone.{layer}', channels=width)
        points[f'stage{index}_pre'] = Point(f'{last}.relu', True, width)
        points[f'stage{index}_norm'] = Point(f'{last}.{norm}')
    return points


def _deit(head: DeiTClsHead) -> dict[str, Point]:
    """Return the places of a head that scores a class and a distillation token."""
    names, width = ('head.layers.head', 'head.layers.head_dist'), head.num_classes
    inputs = head.layers.head.in_features
    return dict(
        class_logits=Point(names[0], channels=width),
        class_token=Point(names[0], True, inputs),
        token_logits=Point(names[1], channels=width, prepare=teach_token_apart),
        distillation_token=Point(names[1], True, inputs, teach_token_apart),
    )


def teach_token_apart(model: nn.Module) -> None:
    """Let the labels of a student of DeiT teach its class token alone.

    In training mode its head then gives the scores of the class token, and in eval mode
    the mean of both, as mmpretrain's always does: it cannot train the distilled DeiT.

    Args:
        model (nn.Module): A classifier with a ``DeiTClsHead``.
    """
    head: Any = model.head
    if _class_scores not in head._forward_hooks.values():
        head.register_forward_hook(_class_scores)
        filterwarnings('ignore', 'MMPretrain cannot train the distilled')


def _class_scores(head: Any, inputs: tuple, output: Any) -> Any:
    if not head.training:
        return output
    class_token, _ = head.pre_logits(*inputs)
    return head.layers.head(class_token)


def _mobilenet(backbone: MobileNetV2) -> dict[str, Point]:
    """Return the places of mmpretrain's MobileNetV2: the last layer of each size.

    Its blocks end without an activation, so that ``stage1`` and ``stage1_pre`` are the
    same place.
    """
    points = {}
    layers = [getattr(backbone, name) for name in backbone.layers if name != 'conv2']
    ends = [
        index
        for index, layer in enumerate(layers)
        if index + 1 == len(layers) or layers[index + 1][0].stride == 2
    ]
    # No method compares features of the first size, half of the image's.
    for stage, index in enumerate(ends[1:], 1):
        block = layers[index][-1]
        name = f'backbone.{backbone.layers[index]}'
        point = Point(name, channels=block.conv[-1].out_channels)
        points[f'stage{stage}'] = points[f'stage{stage}_pre'] = point
        last = f'{name}.{len(layers[index]) - 1}.conv.{len(block.conv) - 1}.bn'
        points[f'stage{stage}_norm'] = Point(last)
    return points
