"""An exponential moving average of the student alone."""

from typing import Any

from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS, MODELS
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from ...utils.arguments import check_arguments, class_of
from ...utils.building import build_part
from ...utils.checkpoint import STUDENT_PREFIX, strip_prefix
from ...utils.model import unwrap

KEY = 'custom_hooks.StudentEMAHook'


@HOOKS.register_module()
class StudentEMAHook(EMAHook):
    """:class:`mmengine.EMAHook` that leaves teacher and distiller alone.

    mmengine's hook copies and averages the whole algorithm with its teacher. This hook
    also works for plain classifiers. As in mmengine, validation uses the average, and
    a checkpoint holds the averaged student in ``state_dict`` and the trained one in
    ``ema_state_dict``.

    Args:
        ema_type (str | type): Class of the average. Defaults to
            ``'ExponentialMovingAverage'``.
        **kwargs: As in mmengine (``momentum``, ``begin_epoch``, ...).

    Raises:
        TypeError: the average has no such argument, or not of that type.
        ValueError: the average refuses the value of an argument.
    """

    def __init__(
        self, ema_type: str | type = 'ExponentialMovingAverage', **kwargs: Any
    ) -> None:
        super().__init__(ema_type=ema_type, **kwargs)
        kind = class_of(self.ema_cfg, MODELS, KEY)
        check_arguments(kind, self.ema_cfg, KEY, supplied=('model',))
        # One of nothing, because mmengine would find the mistake after the log began.
        build_part(dict(self.ema_cfg, model=nn.Identity()), MODELS, KEY)

    def before_run(self, runner) -> None:
        """Copy the student."""
        model = unwrap(runner.model)
        self.prefix = STUDENT_PREFIX if hasattr(model, 'teacher') else ''
        self.src_model = model.student if self.prefix else model
        self.ema_model = MODELS.build(
            self.ema_cfg, default_args=dict(model=self.src_model)
        )

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Load the average, or start it from the loaded student."""
        if 'ema_state_dict' in checkpoint and runner._resume:
            super().after_load_checkpoint(runner, checkpoint)
            return
        found = strip_prefix(checkpoint['state_dict'], self.prefix)
        weights = {name: value.clone() for name, value in found.items()}
        load_state_dict(self.ema_model.module, weights, strict=self.strict_load)

    def _swap_ema_state_dict(self, checkpoint: dict) -> None:
        """Exchange the averaged and the trained student in a checkpoint."""
        weights, average = checkpoint['state_dict'], checkpoint['ema_state_dict']
        for name in average:
            if name.startswith('module.'):
                trained = self.prefix + name.removeprefix('module.')
                average[name], weights[trained] = weights[trained], average[name]
