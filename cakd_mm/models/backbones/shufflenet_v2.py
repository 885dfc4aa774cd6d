"""ShuffleNetV2 for small images: Ma et al. 2018, arXiv:1807.11164.

This is the form of the distillation benchmarks on CIFAR-100: the stem, a 1x1
convolution, keeps the size, no pooling comes before the stages, and a convolution to
1024 channels comes after them.
"""

from typing import Any

import torch
from mmengine.model import BaseModule
from mmpretrain.models.utils import channel_shuffle
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from .staged_backbone import TORCH_DEFAULT, Layers, StagedBackbone

STEM = 24
WIDTHS = (116, 232, 464)
BLOCKS = (4, 8, 4)
LAST = 1024


class CIFARShuffleV2Down(BaseModule):
    """Two branches that halve the size of all channels, then are joined and shuffled.

    Each branch makes half of ``out_channels``.
    """

    def __init__(self, in_channels: int, out_channels: int, layers: Layers) -> None:
        super().__init__()
        width = out_channels // 2
        self.conv1 = layers.conv(in_channels, in_channels, 3, 2, groups=in_channels)
        self.bn1 = layers.norm(in_channels)
        self.conv2 = layers.conv(in_channels, width, 1)
        self.bn2 = layers.norm(width)
        self.conv3 = layers.conv(in_channels, width, 1)
        self.bn3 = layers.norm(width)
        self.conv4 = layers.conv(width, width, 3, 2, groups=width)
        self.bn4 = layers.norm(width)
        self.conv5 = layers.conv(width, width, 1)
        self.bn5 = layers.norm(width)
        self.relu = nn.ReLU(inplace=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H / 2, W / 2)."""
        left = self.bn1(self.conv1(x))
        left = self.bn2(self.conv2(left))
        right = self.relu(self.bn3(self.conv3(x)))
        right = self.bn4(self.conv4(right))
        right = self.bn5(self.conv5(right))
        return channel_shuffle(self.relu(torch.cat((left, right), dim=1)), 2)


class CIFARShuffleV2Unit(BaseModule):
    """One half of the channels passes, the other goes through three convolutions.

    If ``tapped``, the joined halves before the ReLU are offered as a tap.
    """

    # It makes half of the tap's channels, because the other half passes.
    LAST_NORM = 'bn3'

    def __init__(self, channels: int, layers: Layers, tapped: bool) -> None:
        super().__init__()
        width = channels // 2
        self.conv1 = layers.conv(width, width, 1)
        self.bn1 = layers.norm(width)
        self.conv2 = layers.conv(width, width, 3, groups=width)
        self.bn2 = layers.norm(width)
        self.conv3 = layers.conv(width, width, 1)
        self.bn3 = layers.norm(width)
        # Not in place, because a tap may hold the tensor that goes in.
        self.relu = nn.ReLU(inplace=False)
        self.pre_activation = nn.Identity() if tapped else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        passed, x = x.chunk(2, dim=1)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x = self.bn3(self.conv3(x))
        if self.pre_activation is None:
            return channel_shuffle(torch.cat((passed, self.relu(x)), dim=1), 2)
        joined = self.pre_activation(torch.cat((passed, x), dim=1))
        # The half that passed has been through a ReLU, so another does not change it.
        return channel_shuffle(self.relu(joined), 2)


@MODELS.register_module()
class CIFARShuffleNetV2(StagedBackbone):
    """ShuffleNetV2 of width 1 with stages of 116, 232 and 464 channels.

    Modules a recorder can tap by name: ``stage1``, ``stage2``, ``stage3`` (after the
    last shuffle) and ``stage1_pre``, ``stage2_pre``, ``stage3_pre`` (before the last
    ReLU and shuffle, so that the channels have another order). For the last stage the
    net returns another map, to be pooled, which one more convolution brings to 1024
    channels.

    Args:
        **kwargs: ``in_channels``, ``out_indices`` (0 to 2), ``conv_cfg``, ``norm_cfg``
            and ``init_cfg`` as in :class:`StagedBackbone`. ``init_cfg`` defaults
            to Kaiming uniform (fan in), which the distillation benchmarks use.
    """

    INIT = TORCH_DEFAULT

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(WIDTHS, LAST, **kwargs)
        self.add_stem(STEM, 1)
        source = STEM
        for index, (width, count) in enumerate(zip(WIDTHS, BLOCKS, strict=True)):
            units: list[nn.Module] = [CIFARShuffleV2Down(source, width, self.layers)]
            for place in range(1, count):
                tapped = place == count - 1
                units.append(CIFARShuffleV2Unit(width, self.layers, tapped))
            self.add_stage(index, units)
            source = width
        self.conv2 = self.layers.conv(source, LAST, 1)
        self.bn2 = self.layers.norm(LAST)

    def run_stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run a stage; return its map, and what the net returns (see the class)."""
        x, out = super().run_stage(index, x)
        if index == len(WIDTHS) - 1:
            out = self.relu(self.bn2(self.conv2(x)))
        return x, out
