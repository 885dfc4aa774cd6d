"""What the nets written here share: a stem, stages, and taps by name."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule, Sequential
from torch import Tensor, nn

from ...utils.errors import describe

NORM_INIT = dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1)
# Kaiming normal (fan out) for convolutions.
KAIMING = (dict(type='Kaiming', layer='Conv2d', mode='fan_out'), NORM_INIT)
# PyTorch's own, Kaiming uniform (fan in), because the published light nets use it.
TORCH_DEFAULT = (
    dict(
        type='Kaiming',
        layer='Conv2d',
        a=5**0.5,
        mode='fan_in',
        nonlinearity='leaky_relu',
        distribution='uniform',
    ),
    NORM_INIT,
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
    """Base of nets with a stem, ``stage1`` and further stages, and taps by name.

    Modules that a recorder can tap by name: ``stage1`` (the map after the last ReLU of
    the first stage), ``stage1_pre`` (the map before that ReLU), ``stage2`` and so on.

    The first two arguments come from the subclass, the others from a config.

    Args:
        widths (Sequence[int]): Channels of the stages.
        pooled (int, optional): Channels of the map to pool. Defaults to None, those
            of the last stage.
        in_channels (int): Channels of the image. Defaults to 3.
        out_indices (Sequence[int], optional): Stages to return, counted from 0.
            Defaults to None (the last).
        conv_cfg (dict, optional): Convolution layer. Defaults to None (Conv2d).
        norm_cfg (dict, optional): Normalisation layer. Defaults to None (BN).
        init_cfg (dict | list, optional): Initialisation. Defaults to ``INIT`` of the
            class: Kaiming for convolutions, 1 / 0 for normalisation.

    Attributes:
        TAPS (tuple[str, ...]): What may follow ``stage1`` in a tap's name.
        INIT (tuple[dict, ...]): The initialisation where a config has none.
        norms (dict[str, str]): Name of a stage to the name of the normalisation layer
            that makes its map before the last activation.
        tap_channels (dict[str, int]): The channels of every tap. Each tap is a module
            of the net, except ``pooled``, the output of the classifier's ``neck``.

    Raises:
        ValueError: ``out_indices`` is empty or names a stage that is not there.
    """

    TAPS: tuple[str, ...] = ('', '_pre')
    INIT: tuple[dict, ...] = KAIMING

    def __init__(
        self,
        widths: Sequence[int],
        pooled: int | None = None,
        /,
        in_channels: int = 3,
        out_indices: Sequence[int] | None = None,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        last = len(widths) - 1
        out_indices = (last,) if out_indices is None else tuple(out_indices)
        if not out_indices or not set(out_indices) <= set(range(last + 1)):
            problem = f'The net has the stages 0 to {last}.'
            remedy = f'Use ({last},) for the last one.'
            key = 'backbone.out_indices'
            raise ValueError(describe(key, out_indices, problem, remedy))
        super().__init__(init_cfg or list(self.INIT))
        self.in_channels = in_channels
        self.out_indices = out_indices
        self.layers = Layers(conv_cfg, norm_cfg)
        self.norms: dict[str, str] = {}
        self.tap_channels = {
            f'stage{index}{tap}': width
            for index, width in enumerate(widths, 1)
            for tap in self.TAPS
        }
        self.tap_channels['pooled'] = pooled or widths[-1]

    def add_stem(self, channels: int, size: int, stride: int = 1) -> None:
        """Add ``conv1``, ``bn1`` and ``relu``, which :meth:`stem` runs."""
        self.conv1 = self.layers.conv(self.in_channels, channels, size, stride)
        self.bn1 = self.layers.norm(channels)
        self.relu = nn.ReLU(inplace=False)

    def add_stage(self, index: int, blocks: Sequence[nn.Module]) -> None:
        """Add the modules ``stage<index + 1>`` and ``stage<index + 1>_pre``.

        The second is the ``pre_activation`` of the last block. It is registered under
        a plain name, so that recorders find it, and no module runs twice.

        Args:
            index (int): Place of the stage, from 0.
            blocks (Sequence[nn.Module]): Its blocks. ``LAST_NORM`` of the last block
                is the name of its last normalisation layer.
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
