"""Copies each batch, and what it has scored, in one piece."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmpretrain.models import ClsDataPreprocessor, MultiLabelClsHead
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ...datasets.sample_labels import send_labels
from ...models.data_preprocessors import BatchPreprocessor
from ...utils.model import unwrap
from ...utils.transfer import send_together

HOST = torch.device('cpu')
# The method of mmpretrain's heads that makes predictions of scores.
PREDICT = '_get_predictions'


@HOOKS.register_module()
class PackedCopiesHook(Hook):
    """Let a GPU wait for no batch, and once for the scores of a batch.

    A plain classifier's preprocessor waits for images and labels, so it becomes a
    :class:`BatchPreprocessor`. mmpretrain's metrics copy scores and labels of each
    image to the host. Here one copy of all those of a batch comes before the metrics,
    and before a multi-label head looks for the classes of each image. Nor do ranks then
    send one another the scores of a whole batch with each image. No value changes. Put
    it into ``default_hooks``.
    """

    def before_run(self, runner) -> None:
        """Prepare the preprocessor of a model that is not ours."""
        preprocessor: Any = getattr(unwrap(runner.model), 'data_preprocessor', None)
        if type(preprocessor) is ClsDataPreprocessor:
            # Its config stays mmpretrain's, which can be read without this package.
            preprocessor.__class__ = BatchPreprocessor
            # As mmpretrain does, because nets would round in another way otherwise.
            preprocessor.channels_last = None

    def before_val(self, runner) -> None:
        """Prepare the metrics of validation."""
        _prepare(runner.model, runner.val_loop.evaluator)

    def before_test(self, runner) -> None:
        """Prepare the metrics of the test."""
        _prepare(runner.model, runner.test_loop.evaluator)

    def after_val(self, runner) -> None:
        """Leave the heads as they were."""
        _leave(runner.model)

    def after_test(self, runner) -> None:
        """Leave the heads as they were."""
        _leave(runner.model)


def _prepare(model: nn.Module, evaluator: Any) -> None:
    """Let the evaluator, and heads, move what they get before they look at it."""
    if get_world_size() == 1 and all(
        x.device.type == 'cpu' for x in model.parameters()
    ):
        return
    metrics = getattr(evaluator, 'metrics', None)
    if isinstance(metrics, list) and not any(type(x) is _ToHost for x in metrics):
        metrics.insert(0, _ToHost())
    for head in _waiting_heads(model):
        setattr(head, PREDICT, partial(_predict_on_host, head))


def _leave(model: nn.Module) -> None:
    for head in _waiting_heads(model):
        vars(head).pop(PREDICT, None)


def _waiting_heads(model: nn.Module) -> list[Any]:
    """Return the heads that read each image's classes from the device."""
    own = getattr(MultiLabelClsHead, PREDICT)
    return [x for x in model.modules() if getattr(type(x), PREDICT, None) is own]


def _predict_on_host(
    head: MultiLabelClsHead, scores: Tensor, samples: list[DataSample] | None
) -> list[DataSample]:
    """Predict as the head does, from scores and with labels on the host."""
    [scores] = send_labels(samples or (), HOST, scores)
    return MultiLabelClsHead._get_predictions(head, scores, samples)


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
