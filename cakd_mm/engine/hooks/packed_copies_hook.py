"""Copies each batch, and what it has scored, in one piece."""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmpretrain.models import ClsDataPreprocessor
from torch import Tensor

from ...models.data_preprocessors import BatchPreprocessor
from ...utils.model import unwrap
from ...utils.transfer import send_together

HOST = torch.device('cpu')


@HOOKS.register_module()
class PackedCopiesHook(Hook):
    """Let a GPU wait for no batch, and once for the scores of a batch.

    A plain classifier's preprocessor waits for images and labels, so it becomes a
    :class:`BatchPreprocessor`. mmpretrain's metrics copy scores and labels of each
    image to the host. Here one copy of all those of a batch comes before the metrics.
    No value changes. Put it into ``default_hooks``.
    """

    def before_run(self, runner) -> None:
        """Prepare the preprocessor of a model that is not ours."""
        preprocessor = getattr(unwrap(runner.model), 'data_preprocessor', None)
        if type(preprocessor) is ClsDataPreprocessor:
            # Its config stays mmpretrain's, which can be read without this package.
            preprocessor.__class__ = BatchPreprocessor

    def before_val(self, runner) -> None:
        """Prepare the metrics of validation."""
        _add_to(runner.val_loop.evaluator)

    def before_test(self, runner) -> None:
        """Prepare the metrics of the test."""
        _add_to(runner.test_loop.evaluator)


def _add_to(evaluator: Any) -> None:
    """Let the evaluator move what it gets before its first metric."""
    metrics = getattr(evaluator, 'metrics', None)
    if isinstance(metrics, list) and not any(type(x) is _ToHost for x in metrics):
        metrics.insert(0, _ToHost())


class _ToHost:
    """What an evaluator takes for a metric; it has no score of its own."""

    dataset_meta: dict | None = None

    def process(self, data_batch: Any, data_samples: list[dict]) -> None:
        """Replace the tensors of all samples, which the next metrics share."""
        places = [place for sample in data_samples for place in _tensors(sample)]
        found = send_together([sample[name] for sample, name in places], HOST)
        for (sample, name), tensor in zip(places, found, strict=True):
            # Ranks send the results of each image, and a part of a larger tensor would
            # be sent as the whole of it.
            sample[name] = tensor.clone()

    def evaluate(self, size: int) -> dict[str, float]:
        """Return no score."""
        return {}


def _tensors(sample: Any) -> Iterator[tuple[dict, str]]:
    """Yield the places of all dense tensors of a sample, and of samples within it."""
    for name, value in sample.items() if isinstance(sample, dict) else ():
        if isinstance(value, Tensor) and value.layout == torch.strided:
            yield sample, name
        else:
            yield from _tensors(value)
