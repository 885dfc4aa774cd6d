"""Connectors in a row, each of which sees the teacher's feature if it wants to."""

from typing import Any

from torch import nn


class ConnectorSequence(nn.Sequential):
    """A list of configs as one connector.

    The first step may take a list of features, and gets what a single connector would
    get. The teacher's feature is given to all steps that declare ``sees_teacher``.
    """

    @property
    def sees_teacher(self) -> bool:
        """Whether one of the steps does."""
        return any(map(sees_teacher, self))

    def forward(self, feature: Any, teacher: Any = None) -> Any:
        """Return what the last step gives."""
        for step in self:
            feature = connect(step, feature, teacher)
        return feature


def sees_teacher(connector: nn.Module) -> bool:
    """Tell whether a connector takes the teacher's feature as its second argument."""
    return bool(getattr(connector, 'sees_teacher', False))


def connect(connector: nn.Module, feature: Any, teacher: Any) -> Any:
    """Return what a connector makes of the student's feature."""
    if sees_teacher(connector):
        return connector(feature, teacher)
    return connector(feature)
