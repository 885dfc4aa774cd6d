"""Raises the weight of the distillation losses over the first steps of a run."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ...models.checks import is_count
from ...utils.errors import describe
from ...utils.model import unwrap
from .counting import about_a_pass, counts_epochs

KEY = 'default_hooks.warmup'
# The factor's name in the log.
SCALAR = 'train/warmup'


@HOOKS.register_module()
class DistillWarmupHook(Hook):
    """Multiply every distillation loss by ``min((epoch + 1) / epochs, 1)``.

    Epochs count from 0, so the factor of the first one is ``1 / epochs``. With
    ``iters`` it is ``min((iteration + 1) / iters, 1)``, in a loop of either kind. It
    holds for all losses of a :class:`StrictDistiller`, but not for the student's own
    loss and not for :attr:`DistillLoss.auxiliary`. It depends on the epoch or the
    iteration alone, so that a resumed run goes on with the right one, and is logged as
    ``warmup``. Write
    ``default_hooks=dict(warmup=dict(type='DistillWarmupHook', epochs=20))``.

    Args:
        epochs (int, optional): Epochs until the losses have their full weight.
            Defaults to None.
        iters (int, optional): Iterations until then; either this or ``epochs`` is
            given. Defaults to None.

    Raises:
        ValueError: neither or both are given, or what is given is no positive integer;
            the model has no distiller with a ``warmup`` factor; or ``epochs`` is given
            and the loop counts none.
    """

    def __init__(self, epochs: int | None = None, iters: int | None = None) -> None:
        given = {'epochs': epochs, 'iters': iters}
        lengths = {name: x for name, x in given.items() if x is not None}
        if len(lengths) != 1:
            problem = 'It counts either epochs or iterations.'
            remedy = 'Write epochs=20, say, or iters=20000.'
            raise ValueError(describe(KEY, given, problem, remedy))
        [(name, length)] = lengths.items()
        if not is_count(length):
            problem = f'It counts {"epochs" if name == "epochs" else "iterations"}.'
            remedy = 'Write 1 or more, or remove the hook.'
            raise ValueError(describe(f'{KEY}.{name}', length, problem, remedy))
        self._by_epoch = epochs is not None
        self._length = length

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
        if self._by_epoch and not counts_epochs(runner):
            loop = type(runner.train_loop).__name__
            problem = f'{loop} counts no epochs, so the factor would never grow.'
            steps, why = about_a_pass(runner)
            remedy = f'Write iters={self._length * steps} in its place, say. {why}'
            key = f'{KEY}.epochs'
            raise ValueError(describe(key, self._length, problem, remedy.rstrip()))

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Set the factor of this step."""
        model = unwrap(runner.model)
        if getattr(model, 'distillation_stopped', False):
            return
        done = runner.epoch if self._by_epoch else runner.iter
        factor = min((done + 1) / self._length, 1.0)
        model.distiller.warmup = factor
        runner.message_hub.update_scalar(SCALAR, factor)
