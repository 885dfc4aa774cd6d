"""Places in nets whose stages are known: ours, mmpretrain's ResNets and MobileNetV2."""

from typing import Any
from warnings import filterwarnings

from mmpretrain.models import DeiTClsHead
from mmpretrain.models.backbones import MobileNetV2, ResNet
from torch import nn

from .point import Point


def known_points(net: nn.Module) -> dict[str, Point]:
    """Return the places of a net that it, or its class, tells without being run.

    Besides ``stage1`` to ``stage4`` there are ``stage1_pre``, the map before the last
    activation, and ``stage1_norm``, the layer that normalises it. DeiT's head has
    ``class_logits`` and ``token_logits`` of its two classifiers, and what they get,
    ``class_token`` and ``distillation_token``; see :func:`teach_token_apart`.
    """
    backbone: Any = getattr(net, 'backbone', None)
    points: dict[str, Point] = {}
    if hasattr(backbone, 'tap_channels'):
        points = {
            name: Point(f'backbone.{name}', channels=width)
            for name, width in backbone.tap_channels.items()
            if name != 'pooled'
        }
        points |= {
            f'{stage}_norm': Point(f'backbone.{path}')
            for stage, path in backbone.norms.items()
        }
    elif isinstance(backbone, ResNet):
        points = _resnet(backbone)
    elif isinstance(backbone, MobileNetV2):
        points = _mobilenet(backbone)
    head = getattr(net, 'head', None)
    return points | _deit(head) if isinstance(head, DeiTClsHead) else points


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
        distillation_token=Point(names[1], True, inputs, prepare=teach_token_apart),
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
