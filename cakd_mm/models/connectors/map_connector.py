"""From a student's feature map to one of the teacher's width and size."""

from typing import Any

from mmrazor.models.architectures.connectors import ConvModuleConnector
from mmrazor.registry import MODELS
from torch import Tensor

from ..resizing import resize
from .teacher_width import TeacherWidth


@MODELS.register_module()
class MapConnector(TeacherWidth, ConvModuleConnector):
    """mmrazor's ``ConvModuleConnector``, linear by default, that also resizes.

    A larger map is averaged down to the teacher's size, a smaller one
    interpolated. The connector is trained with the student and left behind when the
    student is extracted.

    Args:
        in_channels (int): Channels of the student's map.
        out_channels (int): Channels of the teacher's map.
        size (int | tuple[int, int], optional): Height and width of the
            teacher's map; None keeps the student's. Defaults to None.
        act_cfg (dict, optional): Activation. Defaults to None.
        **kwargs: ``norm_cfg``, ``kernel_size`` ... as in
            ``ConvModuleConnector``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int | tuple[int, int] | None = None,
        act_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, act_cfg=act_cfg, **kwargs)
        self.size: tuple[int, int] | None = None
        if size is not None:
            height, width = (size, size) if isinstance(size, int) else size
            self.size = height, width

    def forward_train(self, feature: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, height, width).

        Raises:
            ValueError: the feature is no map, or has another width.
        """
        self.check_width(feature, self.conv_module.in_channels, only_map=True)
        if self.size is not None:
            feature = resize(feature, self.size)
        return super().forward_train(feature)
