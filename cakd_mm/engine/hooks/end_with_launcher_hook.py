"""Ends ranks whose launcher has been killed."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ...utils.machine import end_with_torchrun


@HOOKS.register_module()
class EndWithLauncherHook(Hook):
    """End a rank when the torchrun that has started it is killed (on Linux).

    Otherwise it would train on, and nobody would end it when another rank fails. Ranks
    of other launchers are left alone. Put it into ``default_hooks``.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner) -> None:
        """Ask the kernel for it."""
        end_with_torchrun()
