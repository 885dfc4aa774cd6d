"""From a student's feature to a vector of the teacher's width."""

from mmrazor.models.architectures.connectors.base_connector import BaseConnector
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ..layout import pool
from .teacher_width import TeacherWidth


@MODELS.register_module()
class PooledConnector(TeacherWidth, BaseConnector):
    """Pool a map, then bring the channels to the teacher's width by a linear layer.

    The connector is trained with the student and left behind when the student is
    extracted.

    Args:
        in_channels (int): Channels of the student's feature.
        out_channels (int): Channels of the teacher's feature.
        bias (bool): Whether the layer has one. Defaults to True.
        init_cfg (dict, optional): As in mmengine. Defaults to None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.linear = nn.Linear(in_channels, out_channels, bias)

    def forward_train(self, feature: Tensor) -> Tensor:
        """Map (N, C_in), (N, L, C_in) or (N, C_in, H, W) to C_out channels.

        Returns:
            Tensor: (N, C_out), or (N, L, C_out) for tokens.

        Raises:
            ValueError: the feature has another width.
        """
        self.check_width(feature, self.linear.in_features)
        return self.linear(pool(feature))
