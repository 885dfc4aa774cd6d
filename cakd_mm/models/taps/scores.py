"""Where a net's scores are, what makes them, and how many classes they are of."""

from collections.abc import Mapping
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from ...tasks import task_of
from .dry_run import Call, DryRun, dry_run
from .layouts import only_tensor
from .point import Point

# What mmpretrain's heads and nets of others call what computes their loss.
LOSS_MODULE = 'loss_module'


def classes_of(net: nn.Module) -> int | None:
    """Return how many classes a net scores.

    Returns:
        int | None: None if it has no classifier, or does not tell.
    """
    classes = task_of(net).declared_classes(net)
    if classes is not None:
        return classes
    path = classifier_of(net)
    if path is not None:
        return layer_width(net.get_submodule(path))
    return _declared_classes(net) if _has_classifier(net, dry_run(net)) else None


def classifier_of(net: nn.Module) -> str | None:
    """Return the path of the layer whose output is the scores; None if there is none.

    It is linear, or a convolution of a map of one position. Where the scores are the
    mean of several layers', as those of a distilled DeiT are, it is the first of them.
    """
    return _classifier(net, dry_run(net))


def gives_scores(net: nn.Module) -> bool:
    """Tell whether a net has a classifier; without one it gives features alone.

    What cannot be run on random images is believed to have one, unless it says
    otherwise.
    """
    if task_of(net).count_place(net) is not None:
        return True
    if hasattr(net, 'teachers'):  # whose average would be the head
        return False
    run = dry_run(net)
    return _declared_classes(net) != 0 if run.failure else _has_classifier(net, run)


def classes_key(net: nn.Module, key: str) -> str:
    """Return the config key that says how many classes a net scores.

    Args:
        net (nn.Module): A classifier of any kind.
        key (str): The config key of the net.
    """
    place = task_of(net).count_place(net)
    if place is not None:
        return f'{key}.{place}.num_classes'
    return f'{key}.{count_name(net)}'


def count_name(net: nn.Module) -> str:
    """Return what the config of a net without a head calls its number of classes."""
    config = getattr(getattr(net, 'model', None), 'config', None)
    # mmpretrain's class for Hugging Face hands its arguments on to that config.
    takes_classes = 'num_classes' in signature(type(net)).parameters
    is_handed_on = hasattr(config, 'num_labels') and not takes_classes
    return 'num_labels' if is_handed_on else 'num_classes'


def find_scores(net: nn.Module, run: DryRun) -> dict[str, Point]:
    """Return ``logits``, ``classifier``, ``pooled``, ``loss_inputs``, if they exist."""
    points = _untried(net) if run.failure else {}
    if (logits := _logits(net, run)) is not None:
        points['logits'] = logits
    if (path := _classifier(net, run)) is not None:
        points['classifier'] = Point(
            path, channels=layer_width(net.get_submodule(path))
        )
    if (pooled := _pooled(net, run, path)) is not None:
        points['pooled'] = pooled
    if (loss := _loss_module(net)) is not None:
        points['loss_inputs'] = Point(loss, takes_input=True)
    return points


def _untried(net: nn.Module) -> dict[str, Point]:
    """Return what the names of parts tell of a net that cannot be run.

    It may take images of one size alone, and not tell which.
    """
    head: Any = getattr(net, 'head', None)
    points = {}
    if head is not None and getattr(net, 'neck', None) is not None:
        width = getattr(head, 'in_channels', None)
        channels = width if isinstance(width, int) else None
        points['pooled'] = Point('neck', channels=channels, take=only_tensor)
    layer = getattr(head, 'fc', None)
    if isinstance(layer, nn.Linear):
        points['classifier'] = Point('head.fc', channels=layer.out_features)
    return points


def _declared_classes(net: nn.Module) -> int | None:
    """Return the classes that a net, or the net in it, says it has; 0 for none."""
    if getattr(net, 'is_backbone', False):  # its config may count classes all the same
        return 0
    inner = getattr(net, 'model', None)
    for holder, name in (
        (net, 'num_classes'),
        (inner, 'num_classes'),
        (getattr(inner, 'config', None), 'num_labels'),
    ):
        found = getattr(holder, name, None)
        if isinstance(found, int):
            return found
    return None


def _logits(net: nn.Module, run: DryRun) -> Point | None:
    head = getattr(net, 'head', None)
    if head is not None:
        return Point('head', channels=getattr(head, 'num_classes', None))
    if not _has_classifier(net, run):
        return None
    call = _made_by(run, run.output)
    if call is None:
        return None
    return Point(call.path, channels=run.output.shape[1], take=scores_in)


def scores_in(output: Any) -> Any:
    """Return the scores in what a net of others gives, which may name them."""
    if isinstance(output, Mapping):
        return output['logits']
    return getattr(output, 'logits', only_tensor(output))


def _has_classifier(net: nn.Module, run: DryRun) -> bool:
    scores = run.output
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        return False
    call = _made_by(run, scores)
    if call is not None and isinstance(call.output, Mapping):
        return 'logits' in call.output
    declared = _declared_classes(net)
    if declared is not None:
        return declared > 0
    return _exact_layer(net, run) is not None


def _made_by(run: DryRun, scores: Tensor) -> Call | None:
    """Return the outermost call that gave scores, alone or beside other outputs."""
    for call in reversed(run.calls):
        output = call.output
        parts = output.values() if isinstance(output, Mapping) else [output]
        if call.path and any(_same(only_tensor(part), scores) for part in parts):
            return call
    return None


def _classifier(net: nn.Module, run: DryRun) -> str | None:
    scores = run.output
    has_head = getattr(net, 'head', None) is not None
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        return None
    if not has_head and not _has_classifier(net, run):
        return None
    return _exact_layer(net, run) or _averaged_layer(net, run)


def _layers(net: nn.Module, run: DryRun) -> dict[str, Tensor]:
    """Return the outputs (N, K) of the layers that may score K classes, by path."""
    found: dict[str, Tensor] = {}
    for call in run.calls:
        layer, output = net.get_submodule(call.path), call.output
        is_score = isinstance(output, Tensor) and not output.is_meta
        if is_score and layer_width(layer) == run.output.shape[1]:
            found[call.path] = output.flatten(1)
    return found


def _exact_layer(net: nn.Module, run: DryRun) -> str | None:
    layers = _layers(net, run).items()
    return next((path for path, x in layers if _same(x, run.output)), None)


def _averaged_layer(net: nn.Module, run: DryRun) -> str | None:
    layers = _layers(net, run)
    if len(layers) < 2:
        return None
    mean = torch.stack([*layers.values()]).mean(0)
    is_mean = torch.allclose(mean, run.output, rtol=1e-3, atol=1e-5)
    return next(iter(layers)) if is_mean else None


def _pooled(net: nn.Module, run: DryRun, classifier: str | None) -> Point | None:
    """Return the place of the classifier's input, or of a net's last vector."""
    neck = _vector_of(run, 'neck')
    if classifier is None:
        if neck is not None:
            return Point('neck', channels=neck.shape[1], take=only_tensor)
        vector = only_tensor(run.output)
        if not isinstance(vector, Tensor) or _logits(net, run) is not None:
            return None
        if vector.dim() != 2 or vector.is_meta:
            return None
        call = _made_by(run, vector)
        if call is None:  # the net itself has made it of what its modules gave
            return Point('', channels=vector.shape[1], take=only_tensor)
        return Point(call.path, channels=vector.shape[1], take=_vector_in(call, vector))
    inputs = run.calls_of(classifier)[-1].inputs[0]
    if not isinstance(inputs, Tensor) or inputs.is_meta:
        return None
    # A neck is where features of mmpretrain's nets have always been recorded.
    if neck is not None and _same(neck, inputs):
        return Point('neck', channels=neck.shape[1], take=only_tensor)
    return Point(classifier, True, inputs.shape[1], take=_flat_input)


def _vector_of(run: DryRun, path: str) -> Tensor | None:
    """Return the vectors (N, C) that a module gave; None if it gave something else."""
    for call in run.calls_of(path):
        output = only_tensor(call.output)
        if isinstance(output, Tensor) and output.dim() == 2 and not output.is_meta:
            return output
    return None


def _vector_in(call: Call, vector: Tensor) -> Any:
    """Return what takes a vector out of an output, in which it may have a name."""
    if not isinstance(call.output, Mapping):
        return only_tensor
    names = [name for name, part in call.output.items() if _same(part, vector)]
    return partial(_named_vector, names[0])


def _named_vector(name: str, output: Mapping[str, Tensor]) -> Tensor:
    return output[name].flatten(1)  # it may be a map of one position


def _flat_input(inputs: Any) -> Tensor:
    return only_tensor(inputs).flatten(1)


def _loss_module(net: nn.Module) -> str | None:
    """Return the path of the module that computes a net's own loss."""
    paths = [path for path, _ in net.named_modules()]
    found = [path for path in paths if path.rpartition('.')[2] == LOSS_MODULE]
    return min(found, key=lambda path: path.count('.'), default=None)


def layer_width(layer: nn.Module) -> int | None:
    """Return how many numbers a layer gives for an image."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels if layer.kernel_size == (1, 1) else None
    return layer.out_features if isinstance(layer, nn.Linear) else None


def _same(one: Any, other: Tensor) -> bool:
    """Tell whether two tensors are the same numbers in memory."""
    return (
        isinstance(one, Tensor)
        and not one.is_meta
        and one.numel() == other.numel()
        and one.data_ptr() == other.data_ptr()
    )
