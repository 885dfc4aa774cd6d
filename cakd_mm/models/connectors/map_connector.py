"""From a student's feature map to one of the teacher's width and size."""

from typing import Any

from mmrazor.models.architectures.connectors import ConvModuleConnector
from mmrazor.registry import MODELS
from torch import Tensor

from ..resizing import resize
from ..tokens import check_grid
from .sees_teacher import SeesTeacher


@MODELS.register_module()
class MapConnector(SeesTeacher, ConvModuleConnector):
    """mmrazor's ``ConvModuleConnector``, linear by default, that also resizes.

    A larger map is averaged down to the teacher's size, a smaller one interpolated,
    see :func:`resize`. The connector is trained with the student and left behind when
    the student is extracted.

    Args:
        in_channels (int): Channels of the student's map.
        out_channels (int): Channels of the teacher's map.
        size (int | tuple[int, int], optional): Height and width to which the map
            comes before the convolution. Defaults to None: after it, the map comes to
            the size of the teacher's, unless the loss takes maps of unequal sizes
            (:class:`OFDFeatureLoss`, and ``granularity='pooled'``).
        act_cfg (dict, optional): Activation. Defaults to None.
        **kwargs: ``norm_cfg``, ``kernel_size`` ... as in
            ``ConvModuleConnector``.
    """

    gives = 4

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int | tuple[int, int] | None = None,
        act_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, act_cfg=act_cfg, **kwargs)
        self.size = check_grid('MapConnector.size', size)

    def forward(self, feature: Tensor, teacher: Any = None) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, height, width).

        Raises:
            ValueError: the feature is no map, or has another width.
        """
        # The convolution comes first, because its stride may bring the map to the size.
        feature = self.forward_train(feature)
        size = None if self.size else self.size_for(teacher)
        return feature if size is None else resize(feature, size)

    def forward_train(self, feature: Tensor) -> Tensor:
        """Bring the map to ``size``, if one is written, and to the teacher's width."""
        self.check_width(feature, self.conv_module.in_channels, dims=(4,))
        if self.size is not None:
            feature = resize(feature, self.size)
        return super().forward_train(feature)
