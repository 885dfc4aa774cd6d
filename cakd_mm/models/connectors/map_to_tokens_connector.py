"""From a map to the tokens of a transformer that teaches."""

from typing import Any

from mmrazor.registry import MODELS
from torch import Tensor

from ..tokens import map_to_tokens
from .teachers_tokens import TeachersTokens


@MODELS.register_module()
class MapToTokensConnector(TeachersTokens):
    """Turn the positions of a map into tokens of the teacher's width and number.

    A larger map is averaged down to the teacher's grid of patches, a smaller one
    interpolated, see :func:`resize`. The connector is trained with the student and left
    behind when the student is extracted. On the teacher's side (``preds_T``) it has no
    layer.

    Args:
        in_channels (int, optional): Channels of the map. A config leaves the first
            three arguments out, because the nets tell them.
        out_channels (int, optional): Channels of the teacher's tokens. None: no layer.
        teacher_extra_tokens (int, optional): Number of class and register tokens of
            the teacher, which come before those of patches.
        extra (str): ``'keep'`` puts the mean of the map in the place of each of these.
            ``'drop'`` gives none; the teacher's have to be left out by a connector on
            its side, :class:`TokensConnector`. Defaults to ``'keep'``.
        teacher_grid (int | tuple[int, int], optional): Height and width of the grid of
            the teacher's patches. Defaults to None: a square.
        init_cfg (dict, optional): As in mmengine. Defaults to None.

    Raises:
        ValueError: a setting is out of range.
    """

    dims = 4

    def forward_train(self, feature: Tensor, teacher: Any = None) -> Tensor:
        """Map (N, C_in, H, W) to the teacher's shape, (N, L, C_out).

        Raises:
            ValueError: the feature is no map or has another width, or the teacher's is
                no tokens or fills no grid.
        """
        self.check_width(feature, self.in_channels, (self.dims,))
        height, width = feature.shape[2:]
        patches = map_to_tokens(feature)
        return self.as_teachers(patches[:, :0], patches, (height, width), teacher)
