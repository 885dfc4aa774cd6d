"""MobileNet: Howard et al. 2017, arXiv:1704.04861.

mmpretrain starts with the second version; distillation benchmarks on ImageNet take the
first as the light student of a ResNet-50.
"""

from collections.abc import Sequence

from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from .staged_backbone import TORCH_DEFAULT, Layers, StagedBackbone

STEM = 32
# Widths of the blocks of each stage. All stages but the first begin with stride 2;
# there it is the second block, so that a stage ends before the next halving.
STAGES = ((64, 128, 128), (256, 256), (512,) * 6, (1024, 1024))


class DepthwiseSeparable(BaseModule):
    """A 3x3 convolution in each channel, then one of 1x1 over all of them.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        stride (int): Stride of the first convolution.
        layers (Layers): Makes the layers.
    """

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
        # Not in place: a tap may hold the tensor that goes in.
        self.relu = nn.ReLU(inplace=False)
        # Called with the input of the last ReLU; a tap for recorders.
        self.pre_activation = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.pre_activation(self.bn2(self.conv2(x))))


@MODELS.register_module()
class MobileNetV1(StagedBackbone):
    """MobileNet of width 1 with four stages of 128, 256, 512 and 1024 channels.

    Modules a recorder can tap by name: ``stage1`` to ``stage4`` (after the last
    ReLU) and ``stage1_pre`` to ``stage4_pre`` (before it).

    Args:
        in_channels (int): Channels of the image. Defaults to 3.
        out_indices (Sequence[int], optional): Stages to return, from 0 to 3.
            Defaults to None (the last).
        conv_cfg (dict, optional): Convolution layer. Defaults to None (Conv2d).
        norm_cfg (dict, optional): Normalisation layer. Defaults to None (BN).
        init_cfg (dict | list, optional): Initialisation. Defaults to PyTorch's own,
            which the benchmarks use: Kaiming uniform (fan in) for convolutions and
            1 / 0 for normalisation.

    Raises:
        ValueError: ``out_indices`` leaves 0..3.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_indices: Sequence[int] | None = None,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        widths = [stage[-1] for stage in STAGES]
        super().__init__(widths, out_indices, init_cfg or TORCH_DEFAULT)
        layers = Layers(conv_cfg, norm_cfg)
        self.conv1 = layers.conv(in_channels, STEM, 3, 2)
        self.bn1 = layers.norm(STEM)
        self.relu = nn.ReLU(inplace=False)
        source = STEM
        for index, stage in enumerate(STAGES):
            halving = 1 if index == 0 else 0
            blocks = []
            for place, width in enumerate(stage):
                stride = 2 if place == halving else 1
                blocks.append(DepthwiseSeparable(source, width, stride, layers))
                source = width
            self.add_stage(index, blocks)
