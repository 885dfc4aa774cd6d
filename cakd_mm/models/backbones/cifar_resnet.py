"""Residual nets for 32x32 images: He et al. 2016, arXiv:1512.03385, section 4.2."""

from collections.abc import Sequence

from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule, Sequential
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ...utils.errors import describe
from .staged_backbone import KAIMING, StagedBackbone


class CIFARBasicBlock(BaseModule):
    """Two 3x3 convolutions and a shortcut.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        stride (int): Stride of the first convolution and of the shortcut.
        conv_cfg (dict, optional): Convolution layer, see mmcv.
        norm_cfg (dict): Normalisation layer, see mmcv.
        pre_activation (nn.Module): Called with the sum before the last ReLU; a
            tap for recorders.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        conv_cfg: dict | None,
        norm_cfg: dict,
        pre_activation: nn.Module | None = None,
    ) -> None:
        super().__init__()

        def conv(width: int, size: int, step: int) -> nn.Module:
            return build_conv_layer(
                conv_cfg,
                width,
                out_channels,
                size,
                stride=step,
                padding=size // 2,
                bias=False,
            )

        def norm() -> nn.Module:
            return build_norm_layer(norm_cfg, out_channels)[1]

        self.conv1, self.bn1 = conv(in_channels, 3, stride), norm()
        self.conv2, self.bn2 = conv(out_channels, 3, 1), norm()
        # Not in place: a tap may hold the tensor that goes in.
        self.relu = nn.ReLU(inplace=False)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = Sequential(conv(in_channels, 1, stride), norm())
        self.pre_activation = pre_activation or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x)) + shortcut
        return self.relu(self.pre_activation(x))


@MODELS.register_module()
class CIFARResNet(StagedBackbone):
    """Residual net of depth ``6 n + 2`` with three stages.

    Modules a recorder can tap by name: ``stage1``, ``stage2``, ``stage3`` (after
    the last ReLU) and ``stage1_pre``, ``stage2_pre``, ``stage3_pre`` (the sum
    before it); ``tap_channels`` has their widths.

    Args:
        depth (int): 8, 14, 20, 32, 44, 56, 110, ...; ``6 n + 2``.
        widths (Sequence[int]): Channels of the stem and of the three stages.
            Defaults to (16, 16, 32, 64); the "x4" nets use (32, 64, 128, 256).
        in_channels (int): Channels of the image. Defaults to 3.
        out_indices (Sequence[int]): Stages to return, from 0 to 2. Defaults to
            (2, ).
        conv_cfg (dict, optional): Convolution layer. Defaults to None (Conv2d).
        norm_cfg (dict): Normalisation layer. Defaults to dict(type='BN').
        init_cfg (dict | list, optional): Initialisation. Defaults to Kaiming
            normal (fan out) for convolutions and 1 / 0 for normalisation.

    Raises:
        ValueError: ``depth`` is not ``6 n + 2`` or ``out_indices`` leaves 0..2.
    """

    def __init__(
        self,
        depth: int,
        widths: Sequence[int] = (16, 16, 32, 64),
        in_channels: int = 3,
        out_indices: Sequence[int] = (2,),
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        _check(depth, widths)
        super().__init__(widths[1:], out_indices, init_cfg or KAIMING)
        norm_cfg = norm_cfg or dict(type='BN')
        self.conv1 = build_conv_layer(
            conv_cfg, in_channels, widths[0], 3, padding=1, bias=False
        )
        self.bn1 = build_norm_layer(norm_cfg, widths[0])[1]
        self.relu = nn.ReLU(inplace=False)
        blocks = (depth - 2) // 6
        for index in range(3):
            # Registered here under a plain name, called by the stage's last block.
            tap = nn.Identity()
            self.add_module(f'stage{index + 1}_pre', tap)
            stage = Sequential()
            for i in range(blocks):
                stage.append(
                    CIFARBasicBlock(
                        widths[index] if i == 0 else widths[index + 1],
                        widths[index + 1],
                        stride=2 if index > 0 and i == 0 else 1,
                        conv_cfg=conv_cfg,
                        norm_cfg=norm_cfg,
                        pre_activation=tap if i == blocks - 1 else None,
                    )
                )
            self.add_module(f'stage{index + 1}', stage)


def _check(depth: int, widths: Sequence[int]) -> None:
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(
            describe(
                'backbone.depth',
                depth,
                'A CIFAR residual net has depth 6 n + 2.',
                'Use 8, 14, 20, 32, 44, 56 or 110.',
            )
        )
    if len(widths) != 4:
        raise ValueError(
            describe(
                'backbone.widths',
                widths,
                'Four numbers are needed: the stem and three stages.',
                'Write (16, 16, 32, 64), or (32, 64, 128, 256) for an "x4" net.',
            )
        )
