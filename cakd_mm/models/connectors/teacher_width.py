"""What the connectors that bring a feature to the teacher's width share."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from ...utils.errors import describe
from ..connector_names import CONNECTORS, KINDS
from ..layout import channel_dim


class TeacherWidth:
    """Fills in the widths that a config leaves out, and checks the feature.

    Attributes:
        gives (int): Number of dimensions of what the connector gives.
    """

    gives: ClassVar[int] = 0

    @classmethod
    def wanted_widths(cls, cfg: Mapping) -> dict[str, str]:
        """Return which net determines which argument, see :func:`fill_widths`."""
        return {'in_channels': 'student', 'out_channels': 'teacher'}

    def check_width(
        self, feature: Tensor, expected: int | None, dims: tuple[int, ...] = (4, 2, 3)
    ) -> None:
        """Raise ValueError unless the student's feature is one for this connector.

        Args:
            feature (Tensor): The student's.
            expected (int, optional): Its channels; None for any number of them.
            dims (tuple[int, ...]): How many dimensions it may have. Defaults to those
                of maps, vectors and tokens.
        """
        kind, is_tensor = type(self).__name__, isinstance(feature, Tensor)
        dim = feature.dim() if is_tensor else 0
        if dim not in dims:
            problem = f'It got a {type(feature).__name__}'
            problem += f' of shape {tuple(feature.shape)}.' if is_tensor else '.'
            *others, last = (KINDS[dim] for dim in dims)
            remedy = f'Tap {", ".join(others)} or {last}' if others else f'Tap {last}'
            remedy += '; of a module that returns a tuple write data_idx=0'
            if name := CONNECTORS.get((dim, self.gives)):
                remedy += f"; for {KINDS[dim]} write type='{name}'"
            raise ValueError(describe(f'{kind}.type', kind, problem, f'{remedy}.'))
        width = feature.shape[channel_dim(feature)]
        if expected not in (None, width):
            raise ValueError(
                f"{kind}.in_channels={expected}, but the student's feature has {width} "
                f'channels ({tuple(feature.shape)}): write in_channels={width} in '
                'model.distiller.connectors, or tap another module.'
            )
