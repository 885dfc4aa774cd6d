"""What the connectors that bring a feature to the teacher's width share."""

from collections.abc import Mapping

from torch import Tensor

from ..layout import channel_dim

KINDS = {4: 'a map (N, C, H, W)', 2: 'a vector (N, C)', 3: 'tokens (N, L, C)'}


class TeacherWidth:
    """Fills in the widths that a config leaves out, and checks the feature."""

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
        shape, kind = tuple(feature.shape), type(self).__name__
        if feature.dim() not in dims:
            *others, last = (KINDS[dim] for dim in dims)
            kinds = f'{", ".join(others)} or {last}' if others else last
            raise ValueError(
                f'{kind} got a feature of shape {shape}: tap {kinds}; of a module that '
                'returns a tuple write data_idx=0.'
            )
        width = feature.shape[channel_dim(feature)]
        if expected not in (None, width):
            raise ValueError(
                f"{kind}.in_channels={expected}, but the student's feature has {width} "
                f'channels ({shape}): write in_channels={width} in '
                'model.distiller.connectors, or tap another module.'
            )
