"""Wide residual nets for small images: Zagoruyko and Komodakis 2016, arXiv:1605.07146.

The batch normalisation comes before the convolutions, so a stage ends in a plain
sum; the normalisation and ReLU that follow it belong to the next stage's first block.
"""

from collections.abc import Sequence

from mmengine.model import BaseModule, Sequential
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ...utils.errors import describe
from .staged_backbone import KAIMING, Layers, StagedBackbone


class CIFARWideBlock(BaseModule):
    """Twice normalisation, ReLU and a 3x3 convolution, plus a shortcut.

    Where the width changes, the shortcut is a 1x1 convolution of the activated
    input; elsewhere it is the input itself.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        stride (int): Stride of the first convolution and of the shortcut.
        activated (bool): The input has been through the first normalisation and
            ReLU already; only where the width changes.
        layers (Layers): Makes the layers.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        activated: bool,
        layers: Layers,
    ) -> None:
        super().__init__()
        self.bn1 = None if activated else layers.norm(in_channels)
        self.conv1 = layers.conv(in_channels, out_channels, 3, stride)
        self.bn2 = layers.norm(out_channels)
        self.conv2 = layers.conv(out_channels, out_channels, 3)
        self.relu = nn.ReLU(inplace=False)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = layers.conv(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        active = x if self.bn1 is None else self.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(self.relu(self.bn2(self.conv1(active)))) + shortcut


@MODELS.register_module()
class CIFARWideResNet(StagedBackbone):
    """Wide residual net of depth ``6 n + 4`` with three stages.

    Modules a recorder can tap by name, for each of the three stages:
    ``stage1_sum`` (its residual sum), ``stage1_pre`` (that sum after the
    normalisation that follows) and ``stage1`` (after the ReLU too). The net runs
    through all of them, so that a tap costs nothing; ``stage1_pre`` is the
    normalisation layer itself.

    Args:
        depth (int): 10, 16, 22, 28, 40, ...; ``6 n + 4``.
        widen_factor (int): Widths of the stages as a multiple of (16, 32, 64).
        in_channels (int): Channels of the image. Defaults to 3.
        out_indices (Sequence[int], optional): Stages to return, from 0 to 2.
            Defaults to None (the last).
        conv_cfg (dict, optional): Convolution layer. Defaults to None (Conv2d).
        norm_cfg (dict, optional): Normalisation layer. Defaults to None (BN).
        init_cfg (dict | list, optional): Initialisation. Defaults to Kaiming
            normal (fan out) for convolutions and 1 / 0 for normalisation.

    Raises:
        ValueError: ``depth`` is not ``6 n + 4``, ``widen_factor`` is less than 1
            or ``out_indices`` leaves 0..2.
    """

    TAPS = ('', '_pre', '_sum')

    def __init__(
        self,
        depth: int,
        widen_factor: int,
        in_channels: int = 3,
        out_indices: Sequence[int] | None = None,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        _check(depth, widen_factor)
        widths = (16, *(widen_factor * width for width in (16, 32, 64)))
        super().__init__(widths[1:], out_indices, init_cfg or KAIMING)
        layers = Layers(conv_cfg, norm_cfg)
        self.conv1 = layers.conv(in_channels, widths[0], 3)
        for index in range(3):
            blocks = Sequential()
            for i in range((depth - 4) // 6):
                blocks.append(
                    CIFARWideBlock(
                        widths[index] if i == 0 else widths[index + 1],
                        widths[index + 1],
                        stride=2 if index > 0 and i == 0 else 1,
                        activated=index > 0 and i == 0,
                        layers=layers,
                    )
                )
            self.add_module(f'stage{index + 1}_sum', blocks)
            self.add_module(f'stage{index + 1}_pre', layers.norm(widths[index + 1]))
            self.norms[f'stage{index + 1}'] = f'stage{index + 1}_pre'
            # Not in place: a tap may hold the tensor that goes in.
            self.add_module(f'stage{index + 1}', nn.ReLU(inplace=False))

    def stem(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to (N, 16, H, W); the blocks normalise."""
        return self.conv1(x)

    def run_stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run a stage; return its activated map, and what the net returns of it.

        That is the sum, but of the last stage the map to pool, after normalisation
        and ReLU.
        """
        total = getattr(self, f'stage{index + 1}_sum')(x)
        x = getattr(self, f'stage{index + 1}_pre')(total)
        x = getattr(self, f'stage{index + 1}')(x)
        return x, x if index == 2 else total


def _check(depth: int, widen_factor: int) -> None:
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(
            describe(
                'backbone.depth',
                depth,
                'A wide residual net has depth 6 n + 4.',
                'Use 10, 16, 22, 28 or 40.',
            )
        )
    if widen_factor < 1:
        raise ValueError(
            describe(
                'backbone.widen_factor',
                widen_factor,
                'It multiplies the widths (16, 32, 64) of the stages.',
                'Use 1 or more, 2 for WRN-16-2 and WRN-40-2.',
            )
        )
