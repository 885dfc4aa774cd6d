"""Exponential moving average of the student alone."""

from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS, MODELS
from mmengine.runner.checkpoint import load_state_dict

from ...utils.checkpoint import STUDENT_PREFIX, strip_prefix
from ...utils.model import unwrap


@HOOKS.register_module()
class StudentEMAHook(EMAHook):
    """:class:`mmengine.EMAHook` that leaves teacher and distiller alone.

    mmengine's averages (and copies) the whole algorithm, teacher included.
    Works for plain classifiers too. As in mmengine, a checkpoint's
    ``state_dict`` holds the averaged student and its ``ema_state_dict`` the raw
    one, and validation uses the average.

    Args:
        ema_type (str): ``'ExponentialMovingAverage'`` (default) and others.
        **kwargs: As in mmengine (``momentum``, ``begin_epoch``, ...).
    """

    def before_run(self, runner) -> None:
        """Copy the student."""
        model = unwrap(runner.model)
        self.prefix = STUDENT_PREFIX if hasattr(model, 'teacher') else ''
        self.src_model = model.student if self.prefix else model
        self.ema_model = MODELS.build(
            self.ema_cfg, default_args=dict(model=self.src_model)
        )

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Take up the average, or start it from the loaded student."""
        if 'ema_state_dict' in checkpoint and runner._resume:
            super().after_load_checkpoint(runner, checkpoint)
            return
        found = strip_prefix(checkpoint['state_dict'], self.prefix)
        weights = {name: value.clone() for name, value in found.items()}
        load_state_dict(self.ema_model.module, weights, strict=self.strict_load)

    def _swap_ema_state_dict(self, checkpoint: dict) -> None:
        """Exchange average and raw student between the two state dicts."""
        weights, average = checkpoint['state_dict'], checkpoint['ema_state_dict']
        for name in average:
            if name.startswith('module.'):
                own = self.prefix + name[len('module.') :]
                average[name], weights[own] = weights[own], average[name]
