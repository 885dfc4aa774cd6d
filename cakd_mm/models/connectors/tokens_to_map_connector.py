"""From a transformer's tokens to a map, for a convolutional teacher."""

from typing import Any

from mmrazor.registry import MODELS
from torch import Tensor

from ..resizing import resize
from ..tokens import tokens_to_map
from .token_connector import TokenConnector


@MODELS.register_module()
class TokensToMapConnector(TokenConnector):
    """Lay the tokens of patches out as a map of the teacher's width and size.

    A larger grid of patches is averaged down, a smaller one interpolated, see
    :func:`resize`. The connector is trained with the student and left behind when the
    student is extracted. On the teacher's side (``preds_T``) it has no layer.

    Args:
        in_channels (int, optional): Channels of the tokens. A config leaves the first
            three arguments out, because the nets tell them.
        out_channels (int, optional): Channels of the teacher's map. None: no layer.
        extra_tokens (int, optional): Number of class and register tokens, which come
            before those of patches.
        extra (str): ``'drop'`` leaves these out, ``'add'`` adds their mean to the
            token of each patch. Defaults to ``'drop'``.
        grid (int | tuple[int, int], optional): Height and width of the grid of
            patches. Defaults to None: a square.
        size (int | tuple[int, int], optional): Height and width of the map. Defaults
            to None: those of the teacher's, unless the loss takes maps of unequal
            sizes (:class:`OFDFeatureLoss`, and ``granularity='pooled'``).
        init_cfg (dict, optional): As in mmengine. Defaults to None.

    Raises:
        ValueError: a setting is out of range.
    """

    gives = 4

    def __init__(
        self,
        in_channels: int | None = None,
        out_channels: int | None = None,
        extra_tokens: int | None = None,
        extra: str = 'drop',
        grid: int | tuple[int, int] | None = None,
        size: int | tuple[int, int] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, init_cfg)
        self.extra_tokens = self.checked_count('extra_tokens', extra_tokens)
        self.extra = self.checked_choice('extra', extra, ('drop', 'add'))
        self.grid = self.checked_grid('grid', grid)
        self.size = self.checked_grid('size', size)
        if extra == 'add' and extra_tokens == 0:
            problem = 'extra_tokens=0, so there is no token that could be added.'
            self.refuse('extra', extra, problem, "Write extra='drop', or leave it out.")

    def forward_train(self, feature: Tensor, teacher: Any = None) -> Tensor:
        """Map tokens (N, extra_tokens + h * w, C_in) to (N, C_out, height, width).

        Raises:
            ValueError: the feature is no tokens, has another width, or fills no grid.
        """
        extra, patches, grid = self.split(feature, self.grid)
        if self.extra == 'add':
            patches = patches + extra.mean(1, keepdim=True)
        feature = tokens_to_map(self.fitted(patches), grid)
        size = self.size or self.size_for(teacher)
        return feature if size is None else resize(feature, size)
