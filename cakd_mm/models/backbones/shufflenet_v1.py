"""ShuffleNet for small images: Zhang et al. 2018, arXiv:1707.01083.

This is the form of the distillation benchmarks on CIFAR-100. It differs from
mmpretrain's: the stem keeps the size, the shuffle comes before the depthwise
convolution, a ReLU follows it, and the branch stands before the pooled input.
"""

from typing import Any

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

    With stride 2 the branch makes the channels that the pooled input lacks, and the
    two are concatenated; with stride 1 they are added. ``squeeze_groups`` are those of
    the first convolution and of the shuffle.
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
        # Not in place, because a tap may hold the tensor that goes in.
        self.relu = nn.ReLU(inplace=False)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None
        # A tap for recorders, which gets the joined branches before the last ReLU.
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

    Args:
        **kwargs: ``in_channels``, ``out_indices`` (0 to 2), ``conv_cfg``, ``norm_cfg``
            and ``init_cfg`` as in :class:`StagedBackbone`. ``init_cfg`` defaults
            to Kaiming uniform (fan in), which the distillation benchmarks use.
    """

    INIT = TORCH_DEFAULT

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(WIDTHS, **kwargs)
        self.add_stem(STEM, 1)
        source = STEM
        for index, (width, count) in enumerate(zip(WIDTHS, BLOCKS, strict=True)):
            units = []
            for place in range(count):
                stride = 2 if place == 0 else 1
                # The stem's few channels are not worth grouping.
                groups = 1 if source == STEM else GROUPS
                unit = CIFARShuffleUnit(source, width, stride, groups, self.layers)
                units.append(unit)
                source = width
            self.add_stage(index, units)
