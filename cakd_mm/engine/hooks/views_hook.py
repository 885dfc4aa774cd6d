"""Refuses batches whose views of an image do not fit the losses."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ...datasets.views import KEY, views_in
from ...models.losses.base import DistillLoss, losses_of
from ...utils.errors import describe
from ...utils.model import unwrap


@HOOKS.register_module()
class ViewsHook(Hook):
    """Let losses that compare two views of each image see two views, and no others.

    A loss says by :attr:`DistillLoss.views` how many it compares. Without views it
    would take the halves of an ordinary batch for two views. Put the hook into
    ``default_hooks``; it does nothing where neither batch nor loss has views.

    Raises:
        ValueError: a batch holds another number of views than a loss compares; its
            images are mixed, so that views no longer belong together; or a loss knows
            images by their place in the training set, where two views have the same.
    """

    def __init__(self) -> None:
        self._losses: list[DistillLoss] = []

    def before_train(self, runner) -> None:
        """Look for the losses, and refuse mixed images where views are compared."""
        self._losses = losses_of(runner.model)
        comparing = [loss for loss in self._losses if loss.views > 1]
        preprocessor = getattr(unwrap(runner.model), 'data_preprocessor', None)
        augments = getattr(preprocessor, 'batch_augments', None)
        if comparing and augments is not None:
            name = comparing[0].class_name
            problem = f'{name} compares views of one image, and these mix images.'
            remedy = 'Remove batch_augments, or use another loss.'
            key, value = 'data_preprocessor.batch_augments', type(augments).__name__
            raise ValueError(describe(key, value, problem, remedy))

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Compare the views of a batch with those that the losses want."""
        views = views_in(data_batch)
        for loss in self._losses:
            value = f'{views} view{"s" if views > 1 else ""} of each image'
            if loss.views not in (1, views):
                problem = f'{loss.class_name} compares {loss.views}.'
                remedy = "Write dict(type='MultiView', num_views=[1, 1], transforms="
                remedy += '[[...], [...]]) before PackInputs; bases of '
                remedy += 'configs/_base_/views show it.'
                raise ValueError(describe(KEY, value, problem, remedy))
            if views > 1 and loss.needs_dataset:
                problem = f'{loss.class_name} knows images by their place in the '
                problem += 'training set, and views of one image have the same.'
                remedy = 'Remove MultiView, or use another loss.'
                raise ValueError(describe(KEY, value, problem, remedy))
