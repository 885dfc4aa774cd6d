"""What the nets written here share: a stem, stages, and taps by name."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule, Sequential
from torch import Tensor, nn

from ...utils.errors import describe

# Kaiming normal (fan out) for convolutions, 1 / 0 for normalisation.
KAIMING = (
    dict(type='Kaiming', layer='Conv2d', mode='fan_out'),
    dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1),
)
# PyTorch's own, Kaiming uniform (fan in), which the light nets' originals keep.
TORCH_DEFAULT = (
    dict(
        type='Kaiming',
        layer='Conv2d',
        a=5**0.5,
        mode='fan_in',
        nonlinearity='leaky_relu',
        distribution='uniform',
    ),
    dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1),
)


@dataclass(frozen=True)
class Layers:
    """Makes the layers of a net from its ``conv_cfg`` and ``norm_cfg``, see mmcv."""

    conv_cfg: dict | None
    norm_cfg: dict | None

    def conv(
        self, source: int, target: int, size: int, stride: int = 1, groups: int = 1
    ) -> nn.Module:
        """Return a convolution without bias that keeps the size at stride 1."""
        return build_conv_layer(
            self.conv_cfg,
            source,
            target,
            size,
            stride=stride,
            padding=size // 2,
            groups=groups,
            bias=False,
        )

    def norm(self, channels: int) -> nn.Module:
        """Return a normalisation layer."""
        return build_norm_layer(self.norm_cfg or dict(type='BN'), channels)[1]


class StagedBackbone(BaseModule):
    """Base of nets with modules ``conv1``, ``bn1``, ``relu`` and ``stage1`` and on.

    Args:
        widths (Sequence[int]): Channels of the stages.
        out_indices (Sequence[int], optional): Stages to return, counted from 0.
            Defaults to None (the last).
        init_cfg (dict | list): Initialisation.
        pooled (int, optional): Channels of the map to pool, if it is not the last
            stage's own. Defaults to None.

    Attributes:
        TAPS (tuple[str, ...]): What may follow ``stage1`` in a tap's name.
        norms (dict[str, str]): Of every stage, the normalisation layer that makes the
            map before the last activation.
        tap_channels (dict[str, int]): The channels of every tap. All are modules
            of the net but ``pooled``, the output of the classifier's ``neck``.

    Raises:
        ValueError: ``out_indices`` is empty or names a stage that is not there.
    """

    TAPS: tuple[str, ...] = ('', '_pre')

    def __init__(
        self,
        widths: Sequence[int],
        out_indices: Sequence[int] | None,
        init_cfg: dict | Sequence[dict],
        pooled: int | None = None,
    ) -> None:
        last = len(widths) - 1
        out_indices = (last,) if out_indices is None else tuple(out_indices)
        if not out_indices or not set(out_indices) <= set(range(last + 1)):
            raise ValueError(
                describe(
                    'backbone.out_indices',
                    out_indices,
                    f'The net has the stages 0 to {last}.',
                    f'Use ({last},) for the last one.',
                )
            )
        super().__init__(init_cfg if isinstance(init_cfg, dict) else list(init_cfg))
        self.out_indices = out_indices
        self.norms: dict[str, str] = {}
        self.tap_channels = {
            f'stage{index}{tap}': width
            for index, width in enumerate(widths, 1)
            for tap in self.TAPS
        }
        self.tap_channels['pooled'] = pooled or widths[-1]

    def add_stage(self, index: int, blocks: Sequence[nn.Module]) -> None:
        """Add the modules ``stage<index + 1>`` and ``stage<index + 1>_pre``.

        The second is the last block's ``pre_activation``, registered first and under
        a plain name, so that recorders find it and nothing is run twice.

        Args:
            index (int): Place of the stage, from 0.
            blocks (Sequence[nn.Module]): Its blocks; ``LAST_NORM`` of the last is the
                name of its last normalisation layer.
        """
        place = f'stage{index + 1}.{len(blocks) - 1}'
        self.norms[f'stage{index + 1}'] = f'{place}.{blocks[-1].LAST_NORM}'
        self.add_module(f'stage{index + 1}_pre', blocks[-1].pre_activation)
        self.add_module(f'stage{index + 1}', Sequential(*blocks))

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
