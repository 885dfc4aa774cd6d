"""An exponential moving average of the student alone."""

from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS, MODELS
from mmengine.runner.checkpoint import load_state_dict

from ...utils.checkpoint import STUDENT_PREFIX, strip_prefix
from ...utils.model import unwrap


@HOOKS.register_module()
class StudentEMAHook(EMAHook):
    """:class:`mmengine.EMAHook` that leaves teacher and distiller alone.

    mmengine's hook copies and averages the whole algorithm with its teacher. This hook
    also works for plain classifiers. As in mmengine, validation uses the average, and
    a checkpoint holds the averaged student in ``state_dict`` and the trained one in
    ``ema_state_dict``.

    Args:
        ema_type (str): Class of the average. Defaults to
            ``'ExponentialMovingAverage'``.
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
