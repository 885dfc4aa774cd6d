"""Lets the distillation losses of a run grow over its first epochs."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop

from ...utils.errors import describe
from ...utils.model import unwrap


@HOOKS.register_module()
class DistillWarmupHook(Hook):
    """Multiply every distillation loss by ``min((epoch + 1) / epochs, 1)``.

    Epochs count from 0, so the first one has ``1 / epochs``. Works for all losses of
    a :class:`StrictDistiller`; the student's own loss and what trains a scorer
    keep their weight. The factor follows from the epoch alone, so a resumed run
    goes on with the right one; the log shows it as ``warmup``. Write
    ``default_hooks=dict(warmup=dict(type='DistillWarmupHook', epochs=20))``.

    Args:
        epochs (int): Epochs until the losses have their full weight.

    Raises:
        ValueError: ``epochs`` is no positive integer, the model has no
            distiller that can be warmed up, or the loop counts no epochs.
    """

    def __init__(self, epochs: int) -> None:
        if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
            raise ValueError(
                describe(
                    'default_hooks.warmup.epochs',
                    epochs,
                    'It counts epochs.',
                    'Write 1 or more, or remove the hook.',
                )
            )
        self.epochs = epochs

    def before_train(self, runner) -> None:
        """Check that there is something to warm up."""
        distiller = getattr(unwrap(runner.model), 'distiller', None)
        if not hasattr(distiller, 'warmup'):
            raise ValueError(
                describe(
                    'default_hooks.warmup',
                    'DistillWarmupHook',
                    f'It needs a distiller with a `warmup` factor, '
                    f'{type(distiller).__name__} has none.',
                    "Write model.distiller.type='StrictDistiller', or remove the hook.",
                )
            )

        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError(
                describe(
                    'default_hooks.warmup',
                    'DistillWarmupHook',
                    f'{type(runner.train_loop).__name__} counts no epochs, so the '
                    'factor would never grow.',
                    "Write train_cfg.type='ResumableTrainLoop', or remove the hook.",
                )
            )

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Set the factor of this epoch."""
        factor = min((runner.epoch + 1) / self.epochs, 1.0)
        unwrap(runner.model).distiller.warmup = factor
        runner.message_hub.update_scalar('train/warmup', factor)
