"""Whether a hook reads a device's values at once or later."""

from torch import nn

from ...utils.errors import describe

MODES = ('auto', 'immediate', 'deferred')


def check_mode(key: str, mode: str) -> None:
    """Raise ValueError, naming ``key``, unless ``mode`` is one of ``MODES``."""
    if mode not in MODES:
        raise ValueError(
            describe(
                key,
                mode,
                'There is no such mode.',
                "Write 'auto', 'immediate' or 'deferred'.",
            )
        )


def is_deferred(mode: str, model: nn.Module) -> bool:
    """Whether values are read later: ``'auto'`` does on any device but the CPU."""
    on_cpu = next(model.parameters()).device.type == 'cpu'
    return mode == 'deferred' or (mode == 'auto' and not on_cpu)
