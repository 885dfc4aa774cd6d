"""MobileNet: Howard et al. 2017, arXiv:1704.04861.

mmpretrain has only later versions. Distillation benchmarks on ImageNet take this one as
the light student of a ResNet-50.
"""

from typing import Any

from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from .staged_backbone import TORCH_DEFAULT, Layers, StagedBackbone

STEM = 32
# Widths of the blocks of each stage. The first block of a stage has stride 2, in the
# first stage the second block, so that each stage ends before the next halving.
STAGES = ((64, 128, 128), (256, 256), (512,) * 6, (1024, 1024))


class DepthwiseSeparable(BaseModule):
    """A 3x3 convolution in each channel, with the stride, then one of 1x1 over all."""

    LAST_NORM = 'bn2'

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, layers: Layers
    ) -> None:
        super().__init__()
        self.conv1 = layers.conv(
            in_channels, in_channels, 3, stride, groups=in_channels
        )
        self.bn1 = layers.norm(in_channels)
        self.conv2 = layers.conv(in_channels, out_channels, 1)
        self.bn2 = layers.norm(out_channels)
        # Not in place, because a tap may hold the tensor that goes in.
        self.relu = nn.ReLU(inplace=False)
        # A tap for recorders, which gets the input of the last ReLU.
        self.pre_activation = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.pre_activation(self.bn2(self.conv2(x))))


@MODELS.register_module()
class MobileNetV1(StagedBackbone):
    """MobileNet of width 1 with four stages of 128, 256, 512 and 1024 channels.

    Args:
        **kwargs: ``in_channels``, ``out_indices`` (0 to 3), ``conv_cfg``, ``norm_cfg``
            and ``init_cfg`` as in :class:`StagedBackbone`. ``init_cfg`` defaults
            to Kaiming uniform (fan in), which the distillation benchmarks use.
    """

    INIT = TORCH_DEFAULT

    def __init__(self, **kwargs: Any) -> None:
        widths = [stage[-1] for stage in STAGES]
        super().__init__(widths, **kwargs)
        self.add_stem(STEM, 3, stride=2)
        source = STEM
        for index, stage in enumerate(STAGES):
            halving = 1 if index == 0 else 0
            blocks = []
            for place, width in enumerate(stage):
                stride = 2 if place == halving else 1
                blocks.append(DepthwiseSeparable(source, width, stride, self.layers))
                source = width
            self.add_stage(index, blocks)
