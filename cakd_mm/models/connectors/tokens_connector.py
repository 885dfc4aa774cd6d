"""From tokens to those of a teacher with another grid of patches."""

from typing import Any, ClassVar

from mmrazor.registry import MODELS
from torch import Tensor

from .teachers_tokens import TeachersTokens
from .token_connector import TokenConnector


@MODELS.register_module()
class TokensConnector(TeachersTokens):
    """Bring tokens to the teacher's width, grid of patches and tokens in front.

    A larger grid is averaged down, a smaller one interpolated, see :func:`resize`. The
    connector is trained with the student and left behind when the student is
    extracted. On the teacher's side (``preds_T``) it has no layer, and
    ``extra='drop'`` leaves the patches alone.

    Args:
        in_channels (int, optional): Channels of the tokens. A config leaves the first
            four arguments out, because the nets tell them.
        out_channels (int, optional): Channels of the teacher's. None: no layer.
        extra_tokens (int, optional): Number of class and register tokens, which come
            before those of patches.
        teacher_extra_tokens (int, optional): That of the teacher's.
        extra (str): ``'keep'`` gives as many tokens in front as the teacher has: the
            student's own in turn, and the mean of its patches for those that it lacks.
            ``'drop'`` gives none; the teacher's have to be left out by a connector on
            its side. Defaults to ``'keep'``.
        grid (int | tuple[int, int], optional): Height and width of the grid of
            patches. Defaults to None: a square.
        teacher_grid (int | tuple[int, int], optional): Those of the teacher's.
            Defaults to None: a square.
        init_cfg (dict, optional): As in mmengine. Defaults to None.

    Raises:
        ValueError: a setting is out of range.
    """

    counts: ClassVar[dict[str, str]] = TokenConnector.counts | TeachersTokens.counts

    def __init__(
        self,
        in_channels: int | None = None,
        out_channels: int | None = None,
        extra_tokens: int | None = None,
        teacher_extra_tokens: int | None = None,
        extra: str = 'keep',
        grid: int | tuple[int, int] | None = None,
        teacher_grid: int | tuple[int, int] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        widths = in_channels, out_channels
        super().__init__(*widths, teacher_extra_tokens, extra, teacher_grid, init_cfg)
        self.extra_tokens = self.checked_count('extra_tokens', extra_tokens)
        self.grid = self.checked_grid('grid', grid)

    def forward_train(self, feature: Tensor, teacher: Any = None) -> Tensor:
        """Map (N, extra_tokens + h * w, C_in) to the teacher's shape, (N, L, C_out).

        Raises:
            ValueError: a feature is no tokens, has another width, or fills no grid.
        """
        return self.as_teachers(*self.split(feature, self.grid), teacher)
