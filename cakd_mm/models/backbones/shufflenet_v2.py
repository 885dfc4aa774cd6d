"""ShuffleNetV2 for small images: Ma et al. 2018, arXiv:1807.11164.

The form of the distillation benchmarks on CIFAR-100: a 1x1 stem that keeps the size, no
pooling before the stages, and a convolution to 1024 channels after them.
"""

from collections.abc import Sequence

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
    """Two branches of all channels, which halve the size; joined and shuffled.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output, half from each branch.
        layers (Layers): Makes the layers.
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

    Args:
        channels (int): Channels of input and output.
        layers (Layers): Makes the layers.
        tapped (bool): Offer the joined halves before the ReLU as a tap.
    """

    # Of half the channels of the tap: the others pass.
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
        # Not in place: a tap may hold the tensor that goes in.
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
        # The half that passed has been through a ReLU: another leaves it as it is.
        return channel_shuffle(self.relu(joined), 2)


@MODELS.register_module()
class CIFARShuffleNetV2(StagedBackbone):
    """ShuffleNetV2 of width 1 with stages of 116, 232 and 464 channels.

    Modules a recorder can tap by name: ``stage1``, ``stage2``, ``stage3`` (after the
    last shuffle) and ``stage1_pre``, ``stage2_pre``, ``stage3_pre`` (before that
    shuffle and the last ReLU, so in another order of the channels). The map that
    is returned of the last stage, and pooled, has been through one more convolution
    to 1024 channels.

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
        super().__init__(WIDTHS, out_indices, init_cfg or TORCH_DEFAULT, pooled=LAST)
        layers = Layers(conv_cfg, norm_cfg)
        self.conv1 = layers.conv(in_channels, STEM, 1)
        self.bn1 = layers.norm(STEM)
        self.relu = nn.ReLU(inplace=False)
        sources = (STEM, *WIDTHS)
        for index, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS, strict=True)):
            units = [CIFARShuffleV2Down(sources[index], width, layers)]
            units += [
                CIFARShuffleV2Unit(width, layers, tapped=place == blocks - 1)
                for place in range(1, blocks)
            ]
            self.add_stage(index, units)
        self.conv2 = layers.conv(WIDTHS[-1], LAST, 1)
        self.bn2 = layers.norm(LAST)

    def run_stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run a stage; return its map, and of the last the 1024 channels to pool."""
        x, out = super().run_stage(index, x)
        if index == len(WIDTHS) - 1:
            out = self.relu(self.bn2(self.conv2(x)))
        return x, out
