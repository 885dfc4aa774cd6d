"""What the backbones of three stages share: their taps and the check of stages."""

from collections.abc import Sequence

from ...utils.errors import describe


def stage_taps(widths: Sequence[int], *suffixes: str) -> dict[str, int]:
    """Return the channels of every tap: ``stage1`` with each suffix, and so on."""
    return {
        f'stage{index}{suffix}': width
        for index, width in enumerate(widths, 1)
        for suffix in suffixes
    }


def check_out_indices(out_indices: Sequence[int]) -> None:
    """Refuse stages that a net of three stages does not have.

    Raises:
        ValueError: none is asked for, or one outside 0..2.
    """
    if not out_indices or not set(out_indices) <= {0, 1, 2}:
        raise ValueError(
            describe(
                'backbone.out_indices',
                out_indices,
                'The net has the stages 0, 1 and 2.',
                'Use (2,) for the last one.',
            )
        )
