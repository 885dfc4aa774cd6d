"""What a frozen teacher said of every view of every image."""

import torch
from torch import Tensor


class TeacherMemo:
    """Keeps the teacher's logits of views that may come again.

    A pad-4 crop with flip gives an image of 32 pixels 162 views, so that over many
    epochs every second one has been seen before. What is kept is exact: the float32
    logits themselves. When its memory is full it takes no more; no view is likelier
    than another, so that there is nothing to choose.

    Args:
        max_gb (float): Memory to use for logits, GiB. The index of the views takes
            four bytes for each possible view of each image beside that.
    """

    def __init__(self, max_gb: float) -> None:
        self.max_bytes = int(max_gb * 2**30)
        self._places = torch.empty(0, dtype=torch.int32)
        self._rows: Tensor | None = None
        self._used = 0

    def find(self, views: Tensor) -> Tensor:
        """Return where the views are kept, -1 for unknown ones, (N,) int32.

        Args:
            views (Tensor): Numbers of the views of all images, (N,) int64, from 0.
        """
        self._make_room(views)
        return self._places[views]

    def recall(self, places: Tensor) -> Tensor:
        """Return the logits (N, C) kept at these places."""
        return self._rows[places]

    def keep(self, views: Tensor, logits: Tensor) -> None:
        """Keep the logits (N, C) of unknown views, as far as there is room."""
        if self._rows is None:
            capacity = self.max_bytes // (logits.shape[1] * logits.element_size())
            self._rows = logits.new_empty((capacity, logits.shape[1]))
        count = min(len(views), len(self._rows) - self._used)
        stop = self._used + count
        self._rows[self._used : stop] = logits[:count]
        places = torch.arange(self._used, stop, device=views.device)
        self._places[views[:count]] = places.to(torch.int32)
        self._used = stop

    def _make_room(self, views: Tensor) -> None:
        """Let the index reach to the highest view, and twice as far as before."""
        needed = int(views.max()) + 1
        if needed > len(self._places):
            size = max(needed, 2 * len(self._places))
            places = torch.full((size,), -1, dtype=torch.int32, device=views.device)
            places[: len(self._places)] = self._places
            self._places = places
