"""Wide residual nets for small images: Zagoruyko and Komodakis 2016, arXiv:1605.07146.

The batch normalisation comes before the convolutions, so that a stage ends in a plain
sum. The paper gives the normalisation and ReLU that follow to the next stage; here they
are modules of the net, so that recorders can tap them.
"""

from typing import Any

from mmengine.model import BaseModule, Sequential
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ...utils.errors import describe
from .staged_backbone import Layers, StagedBackbone


class CIFARWideBlock(BaseModule):
    """Normalisation, ReLU and a 3x3 convolution, all of it twice, plus a shortcut.

    Where the width changes, the shortcut is a 1x1 convolution of the activated
    input; elsewhere it is the input itself.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        halves (bool): The block begins a stage after the first: it has stride 2, and
            its input has been normalised and activated by the stage before.
        layers (Layers): Makes the layers.
    """

    def __init__(
        self, in_channels: int, out_channels: int, halves: bool, layers: Layers
    ) -> None:
        super().__init__()
        stride = 2 if halves else 1
        self.bn1 = None if halves else layers.norm(in_channels)
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
    ``stage1_sum`` (its residual sum), ``stage1_pre`` (the sum after the
    normalisation layer that follows) and ``stage1`` (after the ReLU too). The net
    runs all three anyway, so that a tap costs nothing.

    Args:
        depth (int): 10, 16, 22, 28, 40, ...; ``6 n + 4``.
        widen_factor (int): Widths of the stages as a multiple of (16, 32, 64).
        **kwargs: ``in_channels``, ``out_indices`` (0 to 2), ``conv_cfg``, ``norm_cfg``
            and ``init_cfg`` as in :class:`StagedBackbone`.

    Raises:
        ValueError: ``depth`` is not ``6 n + 4``, or ``widen_factor`` is less than 1.
    """

    TAPS = ('', '_pre', '_sum')

    def __init__(self, depth: int, widen_factor: int, **kwargs: Any) -> None:
        _check(depth, widen_factor)
        widths = [widen_factor * width for width in (16, 32, 64)]
        super().__init__(widths, **kwargs)
        source = 16
        self.conv1 = self.layers.conv(self.in_channels, source, 3)
        for index, width in enumerate(widths):
            blocks = Sequential()
            for place in range((depth - 4) // 6):
                halves = index > 0 and place == 0
                blocks.append(CIFARWideBlock(source, width, halves, self.layers))
                source = width
            name = f'stage{index + 1}'
            self.add_module(f'{name}_sum', blocks)
            self.add_module(f'{name}_pre', self.layers.norm(width))
            self.norms[name] = f'{name}_pre'
            # Not in place, because a tap may hold the tensor that goes in.
            self.add_module(name, nn.ReLU(inplace=False))

    def stem(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to (N, 16, H, W); the blocks normalise."""
        return self.conv1(x)

    def run_stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run a stage; return its activated map, and what the net returns.

        The net returns the sums, except for the last stage: its activated map is
        returned, because the neck pools it.
        """
        total = getattr(self, f'stage{index + 1}_sum')(x)
        x = getattr(self, f'stage{index + 1}_pre')(total)
        x = getattr(self, f'stage{index + 1}')(x)
        return x, x if index == 2 else total


def _check(depth: int, widen_factor: int) -> None:
    if depth < 10 or (depth - 4) % 6:
        problem = 'A wide residual net has depth 6 n + 4.'
        remedy = 'Use 10, 16, 22, 28 or 40.'
        raise ValueError(describe('backbone.depth', depth, problem, remedy))
    if widen_factor < 1:
        problem = 'It multiplies the widths (16, 32, 64) of the stages.'
        remedy = 'Use 1 or more, 2 for WRN-16-2 and WRN-40-2.'
        key = 'backbone.widen_factor'
        raise ValueError(describe(key, widen_factor, problem, remedy))
