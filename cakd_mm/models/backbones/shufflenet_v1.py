"""ShuffleNet for small images: Zhang et al. 2018, arXiv:1707.01083.

The form of the distillation benchmarks on CIFAR-100, which is not mmpretrain's: the
stem keeps the size, the shuffle comes before the depthwise convolution, a ReLU
after it, and the branch stands before the pooled input.
"""

from collections.abc import Sequence

import torch
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule, Sequential
from mmpretrain.models.utils import channel_shuffle
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from .staged_backbone import StagedBackbone

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
        conv_cfg (dict, optional): Convolution layer, see mmcv.
        norm_cfg (dict): Normalisation layer, see mmcv.
        pre_activation (nn.Module): Called with the joined branches before the last
            ReLU; a tap for recorders.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        squeeze_groups: int,
        conv_cfg: dict | None,
        norm_cfg: dict,
        pre_activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        out_channels -= in_channels if stride == 2 else 0
        width = out_channels // 4

        def conv(source: int, target: int, size: int, **options) -> nn.Module:
            return build_conv_layer(
                conv_cfg, source, target, size, bias=False, **options
            )

        def norm(channels: int) -> nn.Module:
            return build_norm_layer(norm_cfg, channels)[1]

        self.squeeze_groups = squeeze_groups
        self.conv1 = conv(in_channels, width, 1, groups=squeeze_groups)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, stride=stride, padding=1, groups=width)
        self.bn2 = norm(width)
        self.conv3 = conv(width, out_channels, 1, groups=GROUPS)
        self.bn3 = norm(out_channels)
        # Not in place: a tap may hold the tensor that goes in.
        self.relu = nn.ReLU(inplace=False)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None
        self.pre_activation = pre_activation or nn.Identity()

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
        out_indices (Sequence[int]): Stages to return, from 0 to 2. Defaults to
            (2, ).
        conv_cfg (dict, optional): Convolution layer. Defaults to None (Conv2d).
        norm_cfg (dict): Normalisation layer. Defaults to dict(type='BN').
        init_cfg (dict | list, optional): Initialisation. Defaults to PyTorch's own,
            which the benchmarks use: Kaiming uniform (fan in) for convolutions and
            1 / 0 for normalisation.

    Raises:
        ValueError: ``out_indices`` leaves 0..2.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_indices: Sequence[int] = (2,),
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = [
                dict(
                    type='Kaiming',
                    layer='Conv2d',
                    a=5**0.5,
                    mode='fan_in',
                    nonlinearity='leaky_relu',
                    distribution='uniform',
                ),
                dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1),
            ]
        super().__init__(WIDTHS, out_indices, init_cfg)
        norm_cfg = norm_cfg or dict(type='BN')
        self.conv1 = build_conv_layer(conv_cfg, in_channels, STEM, 1, bias=False)
        self.bn1 = build_norm_layer(norm_cfg, STEM)[1]
        self.relu = nn.ReLU(inplace=False)
        source = STEM
        for index, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS, strict=True)):
            # Registered here under a plain name, called by the stage's last block.
            tap = nn.Identity()
            self.add_module(f'stage{index + 1}_pre', tap)
            stage = Sequential()
            for i in range(blocks):
                stage.append(
                    CIFARShuffleUnit(
                        source,
                        width,
                        stride=2 if i == 0 else 1,
                        # The stem's few channels are not worth grouping.
                        squeeze_groups=1 if index == i == 0 else GROUPS,
                        conv_cfg=conv_cfg,
                        norm_cfg=norm_cfg,
                        pre_activation=tap if i == blocks - 1 else None,
                    )
                )
                source = width
            self.add_module(f'stage{index + 1}', stage)
