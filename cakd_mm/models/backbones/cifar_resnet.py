"""Residual nets for 32x32 images: He et al. 2016, arXiv:1512.03385, section 4.2."""

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule, Sequential
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ...utils.errors import describe
from .staged_backbone import Layers, StagedBackbone


class CIFARBasicBlock(BaseModule):
    """Two 3x3 convolutions and a shortcut; the first convolution has the stride."""

    LAST_NORM = 'bn2'

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, layers: Layers
    ) -> None:
        super().__init__()
        self.conv1 = layers.conv(in_channels, out_channels, 3, stride)
        self.bn1 = layers.norm(out_channels)
        self.conv2 = layers.conv(out_channels, out_channels, 3)
        self.bn2 = layers.norm(out_channels)
        # Not in place, because a tap may hold the tensor that goes in.
        self.relu = nn.ReLU(inplace=False)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = Sequential(
                layers.conv(in_channels, out_channels, 1, stride),
                layers.norm(out_channels),
            )
        # A tap for recorders, which gets the sum before the last ReLU.
        self.pre_activation = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x)) + shortcut
        return self.relu(self.pre_activation(x))


@MODELS.register_module()
class CIFARResNet(StagedBackbone):
    """Residual net of depth ``6 n + 2`` with three stages.

    Args:
        depth (int): 8, 14, 20, 32, 44, 56, 110, ...; ``6 n + 2``.
        widths (Sequence[int]): Channels of the stem and of the three stages.
            Defaults to (16, 16, 32, 64); the "x4" nets use (32, 64, 128, 256).
        **kwargs: ``in_channels``, ``out_indices`` (0 to 2), ``conv_cfg``, ``norm_cfg``
            and ``init_cfg`` as in :class:`StagedBackbone`.

    Raises:
        ValueError: ``depth`` is not ``6 n + 2``, or there are not four widths.
    """

    def __init__(
        self, depth: int, widths: Sequence[int] = (16, 16, 32, 64), **kwargs: Any
    ) -> None:
        _check(depth, widths)
        super().__init__(widths[1:], **kwargs)
        source, *stages = widths
        self.add_stem(source, 3)
        for index, width in enumerate(stages):
            blocks = []
            for place in range((depth - 2) // 6):
                stride = 2 if index > 0 and place == 0 else 1
                blocks.append(CIFARBasicBlock(source, width, stride, self.layers))
                source = width
            self.add_stage(index, blocks)


def _check(depth: int, widths: Sequence[int]) -> None:
    if depth < 8 or (depth - 2) % 6:
        problem = 'A CIFAR residual net has depth 6 n + 2.'
        remedy = 'Use 8, 14, 20, 32, 44, 56 or 110.'
        raise ValueError(describe('backbone.depth', depth, problem, remedy))
    if len(widths) != 4:
        problem = 'Four numbers are needed: the stem and three stages.'
        remedy = 'Write (16, 16, 32, 64), or (32, 64, 128, 256) for an "x4" net.'
        raise ValueError(describe('backbone.widths', widths, problem, remedy))
