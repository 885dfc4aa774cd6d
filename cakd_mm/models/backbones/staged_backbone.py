"""What the nets for 32x32 images share: a stem, three stages, and taps by name."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor

from ...utils.errors import describe

# Kaiming normal (fan out) for convolutions, 1 / 0 for normalisation.
KAIMING = (
    dict(type='Kaiming', layer='Conv2d', mode='fan_out'),
    dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1),
)


class StagedBackbone(BaseModule):
    """Base of nets with modules ``conv1``, ``bn1``, ``relu`` and ``stage1`` to ``3``.

    Args:
        widths (Sequence[int]): Channels of the three stages.
        out_indices (Sequence[int]): Stages to return, from 0 to 2.
        init_cfg (dict | list): Initialisation.

    Attributes:
        TAPS (tuple[str, ...]): What may follow ``stage1`` in a tap's name.
        tap_channels (dict[str, int]): The channels of every tap.

    Raises:
        ValueError: ``out_indices`` is empty or leaves 0..2.
    """

    TAPS: tuple[str, ...] = ('', '_pre')

    def __init__(
        self,
        widths: Sequence[int],
        out_indices: Sequence[int],
        init_cfg: dict | Sequence[dict],
    ) -> None:
        if not out_indices or not set(out_indices) <= {0, 1, 2}:
            raise ValueError(
                describe(
                    'backbone.out_indices',
                    out_indices,
                    'The net has the stages 0, 1 and 2.',
                    'Use (2,) for the last one.',
                )
            )
        super().__init__(init_cfg if isinstance(init_cfg, dict) else list(init_cfg))
        self.out_indices = tuple(out_indices)
        self.tap_channels = {
            f'stage{index}{tap}': width
            for index, width in enumerate(widths, 1)
            for tap in self.TAPS
        }

    def stem(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to what the first stage takes."""
        return self.relu(self.bn1(self.conv1(x)))

    def run_stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run a stage; return what the next one takes and what the net returns."""
        x = getattr(self, f'stage{index + 1}')(x)
        return x, x

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the asked stages' maps of images (N, in_channels, H, W)."""
        x = self.stem(x)
        outs = []
        for index in range(max(self.out_indices) + 1):
            x, out = self.run_stage(index, x)
            if index in self.out_indices:
                outs.append(out)
        return tuple(outs)
