"""What the connectors from and to tokens share."""

from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

from torch import Tensor, nn

from ...utils.errors import describe
from ..checks import is_count
from ..tokens import Grid, check_grid, grid_of, split_tokens
from .sees_teacher import SeesTeacher


class TokenConnector(SeesTeacher):
    """Base of the connectors from and to tokens.

    It has a linear layer if ``out_channels`` is given. Without it there is nothing to
    train, so that it suits the teacher's feature as well:
    ``preds_T=dict(..., connector='patches')``.

    Args:
        in_channels (int, optional): Channels of the feature. Defaults to None.
        out_channels (int, optional): Channels to come to. Defaults to None: those of
            the feature, without a layer.
        init_cfg (dict, optional): As in mmengine. Defaults to None.

    Raises:
        ValueError: ``out_channels`` stands without ``in_channels``, or one is no
            positive integer.
    """

    # Number of dimensions of the feature that it takes.
    dims: ClassVar[int] = 3
    # Where the numbers of class and register tokens come from, by argument.
    counts: ClassVar[dict[str, str]] = {'extra_tokens': 'student_extra_tokens'}

    def __init__(
        self,
        in_channels: int | None = None,
        out_channels: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.linear: nn.Linear | None = None
        if out_channels is None:
            return
        widths = dict(in_channels=in_channels, out_channels=out_channels)
        for name, value in widths.items():
            if not is_count(value):
                problem = 'A layer needs two widths, positive integers.'
                remedy = f'Write {name}=192, say, or leave out_channels out.'
                self.refuse(name, value, problem, remedy)
        self.linear = nn.Linear(in_channels or 0, out_channels)

    @classmethod
    def wanted_widths(cls, cfg: Mapping) -> dict[str, str]:
        """Ask for the widths, and for the numbers of class and register tokens."""
        return super().wanted_widths(cfg) | cls.counts

    def refuse(self, name: str, value: Any, problem: str, remedy: str) -> NoReturn:
        """Raise ValueError that names an argument."""
        key = f'{type(self).__name__}.{name}'
        raise ValueError(describe(key, value, problem, remedy))

    def checked_choice(self, name: str, value: Any, choices: tuple[str, ...]) -> str:
        """Return an argument, which is one of the choices."""
        if value not in choices:
            known = ', '.join(map(repr, choices))
            self.refuse(name, value, f'It is one of {known}.', 'Write one of them.')
        return value

    def checked_count(self, name: str, value: Any) -> int | None:
        """Return a number of class and register tokens, or None if it is unknown."""
        if value is not None and not is_count(value, least=0):
            problem = 'It is the number of class and register tokens.'
            self.refuse(name, value, problem, f'Write {name}=1, say, or leave it out.')
        return value

    def checked_grid(self, name: str, value: Any) -> Grid | None:
        """Return height and width that a config has, see :func:`check_grid`."""
        return check_grid(f'{type(self).__name__}.{name}', value)

    def known(self, name: str) -> int:
        """Return a number of class and register tokens.

        Raises:
            ValueError: neither the config nor the net has told it.
        """
        count = getattr(self, name)
        if count is None:
            problem = 'How many class and register tokens come before those of patches '
            problem += 'cannot be told from the net.'
            remedy = f'Write {name}=1 for a class token alone, {name}=0 for none.'
            self.refuse(name, None, problem, remedy)
        return count

    def fitted(self, feature: Tensor) -> Tensor:
        """Bring tokens (N, L, C_in) or vectors (N, C_in) to C_out channels."""
        return feature if self.linear is None else self.linear(feature)

    def split(
        self, tokens: Tensor, grid: Grid | None = None
    ) -> tuple[Tensor, Tensor, Grid]:
        """Return the tokens in front, those of patches, and the grid of these.

        Args:
            tokens (Tensor): (N, extra_tokens + h * w, C_in).
            grid (tuple[int, int], optional): (h, w), if it is written. Defaults to
                None: a square.

        Raises:
            ValueError: it is no tokens, has another width, or fills no such grid.
        """
        self.check_width(tokens, self.in_channels, (self.dims,))
        count, key = self.known('extra_tokens'), f'{type(self).__name__}.grid'
        return *split_tokens(tokens, count), grid_of(tokens.shape[1], count, grid, key)
