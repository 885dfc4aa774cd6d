"""From a student's feature map to one of the teacher's, over a few channels."""

from typing import Any

from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...utils.errors import describe
from ..checks import is_count
from .map_connector import MapConnector


@MODELS.register_module()
class BottleneckConnector(MapConnector):
    """Three convolutions over a map with few channels between them.

    A 1x1 convolution leads to ``mid_channels``, a 3x3 one compares neighbours, and a
    1x1 one, that of :class:`MapConnector`, leads to the teacher's channels. Norm and
    activation follow the last alone. WKD (arXiv 2412.08139) projects ImageNet's maps in
    this way. From 1024 to 2048 channels it has 1.4 M weights, where a 3x3 convolution
    has 18.9 M.

    Args:
        in_channels (int): Channels of the student's map.
        out_channels (int): Channels of the teacher's map.
        mid_channels (int): Channels between the convolutions. Defaults to 256.
        **kwargs: ``size``, ``act_cfg``, ``norm_cfg`` ... as in :class:`MapConnector`.
            They are about the last convolution.

    Raises:
        ValueError: ``mid_channels`` is no positive integer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        mid_channels: int = 256,
        **kwargs: Any,
    ) -> None:
        if not is_count(mid_channels):
            key, problem = 'BottleneckConnector.mid_channels', 'It is a width.'
            raise ValueError(
                describe(key, mid_channels, problem, 'Write a positive integer.')
            )
        super().__init__(mid_channels, out_channels, **kwargs)
        self.narrow = nn.Sequential(
            nn.Conv2d(in_channels, mid_channels, 1),
            nn.Conv2d(mid_channels, mid_channels, 3, padding=1),
        )
        self.in_channels = in_channels

    def forward_train(self, feature: Tensor) -> Tensor:
        """Bring the map to the teacher's width, and then to ``size`` if one is set."""
        self.check_width(feature, self.in_channels, dims=(4,))
        return super().forward_train(self.narrow(feature))
