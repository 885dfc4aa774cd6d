"""Raises the weight of the distillation losses over the first epochs of a run."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop

from ...models.checks import is_count
from ...utils.errors import describe
from ...utils.model import unwrap

KEY = 'default_hooks.warmup'
# The factor's name in the log.
SCALAR = 'train/warmup'


@HOOKS.register_module()
class DistillWarmupHook(Hook):
    """Multiply every distillation loss by ``min((epoch + 1) / epochs, 1)``.

    Epochs count from 0, so the factor of the first one is ``1 / epochs``. It holds for
    all losses of a :class:`StrictDistiller`, but not for the student's own loss and not
    for :attr:`DistillLoss.auxiliary`. It depends on the epoch alone, so that a resumed
    run goes on with the right one, and is logged as ``warmup``. Write
    ``default_hooks=dict(warmup=dict(type='DistillWarmupHook', epochs=20))``.

    Args:
        epochs (int): Epochs until the losses have their full weight.

    Raises:
        ValueError: ``epochs`` is no positive integer, the model has no distiller with
            a ``warmup`` factor, or the loop counts no epochs.
    """

    def __init__(self, epochs: int) -> None:
        if not is_count(epochs):
            key, remedy = f'{KEY}.epochs', 'Write 1 or more, or remove the hook.'
            raise ValueError(describe(key, epochs, 'It counts epochs.', remedy))
        self.epochs = epochs

    def before_train(self, runner) -> None:
        """Check that there is something to warm up."""
        distiller = getattr(unwrap(runner.model), 'distiller', None)
        if not hasattr(distiller, 'warmup'):
            problem = (
                f'It needs a distiller with a `warmup` factor, '
                f'{type(distiller).__name__} has none.'
            )
            remedy = "Write model.distiller.type='StrictDistiller', or remove the hook."
            raise ValueError(describe(KEY, 'DistillWarmupHook', problem, remedy))
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            problem = (
                f'{type(runner.train_loop).__name__} counts no epochs, so the factor '
                'would never grow.'
            )
            remedy = "Write train_cfg.type='ResumableTrainLoop', or remove the hook."
            raise ValueError(describe(KEY, 'DistillWarmupHook', problem, remedy))

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Set the factor of this epoch."""
        model = unwrap(runner.model)
        if getattr(model, 'distillation_stopped', False):
            return
        factor = min((runner.epoch + 1) / self.epochs, 1.0)
        model.distiller.warmup = factor
        runner.message_hub.update_scalar(SCALAR, factor)
