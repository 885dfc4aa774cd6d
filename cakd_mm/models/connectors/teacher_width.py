"""What the connectors that bring a feature to the teacher's width share."""

from collections.abc import Mapping

from torch import Tensor

from ..layout import channel_dim


class TeacherWidth:
    """Fills in the widths that a config leaves out, and checks the feature."""

    @classmethod
    def wanted_widths(cls, cfg: Mapping) -> dict[str, str]:
        """Return which net determines which argument, see :func:`fill_widths`."""
        return {'in_channels': 'student', 'out_channels': 'teacher'}

    def check_width(
        self, feature: Tensor, expected: int, only_map: bool = False
    ) -> None:
        """Raise ValueError unless the student's feature is one for this connector."""
        shape, kind = tuple(feature.shape), type(self).__name__
        if feature.dim() not in ((4,) if only_map else (2, 3, 4)):
            raise ValueError(
                f'{kind} got a feature of shape {shape}: tap a map (N, C, H, W)'
                f'{"" if only_map else ", a vector (N, C) or tokens (N, L, C)"}; of a '
                'module that returns a tuple write data_idx=0.'
            )
        width = feature.shape[channel_dim(feature)]
        if width != expected:
            raise ValueError(
                f"{kind}.in_channels={expected}, but the student's feature has {width} "
                f'channels ({shape}): write in_channels={width} in '
                'model.distiller.connectors, or tap another module.'
            )
