"""ShuffleNet for small images: Zhang et al. 2018, arXiv:1707.01083.

The form of the distillation benchmarks on CIFAR-100, which is not mmpretrain's: the
stem keeps the size, the shuffle comes before the depthwise convolution, a ReLU
after it, and the branch stands before the pooled input.
"""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from mmpretrain.models.utils import channel_shuffle
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from .staged_backbone import TORCH_DEFAULT, Layers, StagedBackbone

GROUPS = 3
STEM = 24
WIDTHS = (240, 480, 960)
BLOCKS = (4, 8, 4)


class CIFARShuffleUnit(BaseModule):
    """A bottleneck of grouped convolutions beside a shortcut.

    With stride 2 the branch makes the channels that the pooled input lacks and the
    two are concatenated; with stride 1 they are added.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        stride (int): 1 or 2.
        squeeze_groups (int): Groups of the first convolution and of the shuffle.
        layers (Layers): Makes the layers.
    """

    LAST_NORM = 'bn3'

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        squeeze_groups: int,
        layers: Layers,
    ) -> None:
        super().__init__()
        out_channels -= in_channels if stride == 2 else 0
        width = out_channels // 4
        self.squeeze_groups = squeeze_groups
        self.conv1 = layers.conv(in_channels, width, 1, groups=squeeze_groups)
        self.bn1 = layers.norm(width)
        self.conv2 = layers.conv(width, width, 3, stride, groups=width)
        self.bn2 = layers.norm(width)
        self.conv3 = layers.conv(width, out_channels, 1, groups=GROUPS)
        self.bn3 = layers.norm(out_channels)
        # Not in place: a tap may hold the tensor that goes in.
        self.relu = nn.ReLU(inplace=False)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None
        # Called with the joined branches before the last ReLU; a tap for recorders.
        self.pre_activation = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = channel_shuffle(branch, self.squeeze_groups)
        branch = self.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        if self.pool is None:
            x = branch + x
        else:
            x = torch.cat((branch, self.pool(x)), dim=1)
        return self.relu(self.pre_activation(x))


@MODELS.register_module()
class CIFARShuffleNetV1(StagedBackbone):
    """ShuffleNet with three groups and stages of 240, 480 and 960 channels.

    Modules a recorder can tap by name: ``stage1``, ``stage2``, ``stage3`` (after
    the last ReLU) and ``stage1_pre``, ``stage2_pre``, ``stage3_pre`` (the joined
    branches before it).

    Args:
        in_channels (int): Channels of the image. Defaults to 3.
        out_indices (Sequence[int], optional): Stages to return, from 0 to 2.
            Defaults to None (the last).
        conv_cfg (dict, optional): Convolution layer. Defaults to None (Conv2d).
        norm_cfg (dict, optional): Normalisation layer. Defaults to None (BN).
        init_cfg (dict | list, optional): Initialisation. Defaults to PyTorch's own,
            which the benchmarks use: Kaiming uniform (fan in) for convolutions and
            1 / 0 for normalisation.

    Raises:
        ValueError: ``out_indices`` leaves 0..2.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_indices: Sequence[int] | None = None,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(WIDTHS, out_indices, init_cfg or TORCH_DEFAULT)
        layers = Layers(conv_cfg, norm_cfg)
        self.conv1 = layers.conv(in_channels, STEM, 1)
        self.bn1 = layers.norm(STEM)
        self.relu = nn.ReLU(inplace=False)
        sources = (STEM, *WIDTHS)
        for index, blocks in enumerate(BLOCKS):
            units = [
                CIFARShuffleUnit(
                    sources[index] if place == 0 else WIDTHS[index],
                    WIDTHS[index],
                    stride=2 if place == 0 else 1,
                    # The stem's few channels are not worth grouping.
                    squeeze_groups=1 if index == place == 0 else GROUPS,
                    layers=layers,
                )
                for place in range(blocks)
            ]
            self.add_stage(index, units)
