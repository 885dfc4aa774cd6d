"""What the connectors that fit a student's feature to the teacher's size share."""

from typing import Any

from mmrazor.models.architectures.connectors.base_connector import BaseConnector
from torch import Tensor

from .teacher_width import TeacherWidth


class SeesTeacher(TeacherWidth, BaseConnector):
    """Base of the connectors that are given the teacher's feature as well.

    :class:`StrictDistiller` gives it to each connector that declares ``sees_teacher =
    True``: ``connector(feature, teacher)``. It is what the loss gets in the argument
    of the same name that ends in T, detached, after a connector of its own; or None if
    the loss has no such argument. For a list of features it is the list of the
    teacher's.

    Attributes:
        keeps_size (bool): Whether the student's map stays as large as it is. The
            distiller sets it where every loss that is fed takes maps of unequal
            sizes, see :attr:`DistillLoss.any_size`. Defaults to False.
    """

    sees_teacher = True
    keeps_size = False

    def forward(self, feature: Any, teacher: Any = None) -> Any:
        """Bring the student's feature to the teacher's width and size."""
        return self.forward_train(feature, teacher)

    def size_for(self, teacher: Any) -> tuple[int, int] | None:
        """Return the height and width to come to, None for those that there are."""
        is_map = isinstance(teacher, Tensor) and teacher.dim() == 4
        if self.keeps_size or not is_map:
            return None
        height, width = teacher.shape[2:]
        return height, width
