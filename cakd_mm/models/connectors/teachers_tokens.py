"""What the connectors that end in tokens of the teacher's number share."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..connector_names import how_to_fit
from ..tokens import Grid, grid_of, resize_tokens
from .token_connector import TokenConnector

TEACHERS_OWN = (
    'Leave the class and register tokens of the teacher out as well: '
    "preds_T=dict(..., connector='patches') with patches=dict(type='TokensConnector', "
    "extra='drop'). If its grid is no square, write "
    'teacher_grid=(h, w).'
)


class TeachersTokens(TokenConnector):
    """Base of the connectors that give as many tokens as the teacher has.

    Args:
        in_channels (int, optional): As in :class:`TokenConnector`.
        out_channels (int, optional): As there.
        teacher_extra_tokens (int, optional): Number of class and register tokens of
            the teacher. Defaults to None (unknown).
        extra (str): ``'keep'`` gives as many of them, ``'drop'`` none. Defaults to
            ``'keep'``.
        teacher_grid (int | tuple[int, int], optional): Height and width of the grid of
            the teacher's patches. Defaults to None: a square.
        init_cfg (dict, optional): As in mmengine. Defaults to None.

    Raises:
        ValueError: a setting is out of range.
    """

    gives = 3
    counts: ClassVar[dict[str, str]] = {'teacher_extra_tokens': 'teacher_extra_tokens'}

    def __init__(
        self,
        in_channels: int | None = None,
        out_channels: int | None = None,
        teacher_extra_tokens: int | None = None,
        extra: str = 'keep',
        teacher_grid: int | tuple[int, int] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, init_cfg)
        count = self.checked_count('teacher_extra_tokens', teacher_extra_tokens)
        self.teacher_extra_tokens = count
        self.extra = self.checked_choice('extra', extra, ('keep', 'drop'))
        self.teacher_grid = self.checked_grid('teacher_grid', teacher_grid)

    @classmethod
    def wanted_widths(cls, cfg: Mapping) -> dict[str, str]:
        """Ask for the widths, and for the numbers of tokens that make a difference."""
        wanted = super().wanted_widths(cfg)
        if cfg.get('extra') == 'drop':
            del wanted['teacher_extra_tokens']
        return wanted

    def as_teachers(
        self, extra: Tensor, patches: Tensor, grid: Grid, teacher: Any
    ) -> Tensor:
        """Return tokens (N, L, C_out) for those of the teacher.

        Args:
            extra (Tensor): The student's class and register tokens, (N, p, C_in).
            patches (Tensor): Its patches, (N, h * w, C_in), where ``grid`` is (h, w).
            grid (tuple[int, int]): Their grid.
            teacher (Tensor, optional): The teacher's tokens, (N, L, C). None on the
                teacher's own side.

        Raises:
            ValueError: the teacher's feature is no tokens, or fills no grid.
        """
        seen = isinstance(teacher, Tensor)
        if seen and teacher.dim() != 3:
            raise ValueError(
                f'{type(self).__name__} gives tokens, but the feature of the teacher '
                f'has the shape {tuple(teacher.shape)}: tap tokens (N, L, C) there as '
                f'well, or {how_to_fit(self.dims, teacher.dim())}.'
            )
        count, size = extra.shape[1], self.teacher_grid or grid
        if self.extra == 'drop':
            count = 0
        elif seen or self.teacher_extra_tokens is not None:
            count = self.known('teacher_extra_tokens')
        if seen:
            remedy = TEACHERS_OWN if self.extra == 'drop' else None
            key, known = f'{type(self).__name__}.teacher_grid', self.teacher_grid
            size = grid_of(teacher.shape[1], count, known, key, remedy)
        front = extra[:, :count]
        missing = count - front.shape[1]
        mean = patches.mean(1, keepdim=True).expand(-1, missing, -1)
        patches = resize_tokens(patches, grid, size)
        return self.fitted(torch.cat((front, mean, patches), 1))
