"""Weights of timm, Hugging Face and torchvision as these projects publish them."""

import copy
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .random_states import random_states_kept

# Names of torchvision's early densenets, which had a dot where there is none today.
EARLY_DENSENET = re.compile(r'(\.denselayer\d+\.(?:norm|conv))\.(\d\.)')


def as_wanted(
    net: nn.Module, weights: Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], list[str]]:
    """Return published weights by the names that a net has for them.

    Each project's own conversion is used, where it has one. What fits stays as it is.

    Args:
        net (nn.Module): The net. If it is one of another project, that is its `model`.
        weights (Mapping[str, Tensor]): Weights as in a file.

    Returns:
        tuple: The weights, of which some may be missing or unexpected, and what a user
        should know of what was changed or left out, a sentence each.
    """
    wanted = net.state_dict()
    if _shapes(wanted) == _shapes(weights):
        return weights, []
    model = getattr(net, 'model', None)
    if isinstance(model, nn.Module) and _are_tensors(weights):
        if hasattr(model, 'from_pretrained'):
            return _of_hugging_face(net, model, weights, wanted)
        found = _of_their_module(model, weights)
        notes = _differences(weights, found)
    else:
        found, notes = dict(weights), []
    absent = [
        name
        for name in found
        if any(name.startswith(f'{one}.') for one in _absent_layers(net, wanted))
    ]
    for name in absent:
        del found[name]
    return found, [*notes, *_left_out(absent, 'classifier')]


def _shapes(weights: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, 'shape', None) for name, value in weights.items()}


def _are_tensors(weights: Mapping[str, Any]) -> bool:
    return all(isinstance(value, Tensor) for value in weights.values())


def _left_out(names: list[str], part: str) -> list[str]:
    if not names:
        return []
    tops = sorted({name.rpartition('.')[0] or name for name in names})
    shown = ', '.join(tops[:4]) + (', ...' if len(tops) > 4 else '')
    text = f'{len(names)} tensors of the file were left out, because the net has no '
    return [f'{text}{part} ({shown}).']


def _absent_layers(net: nn.Module, wanted: Mapping[str, Any]) -> list[str]:
    """Return the names of classifiers that a net of this kind may have, and lacks."""
    names = [*getattr(net, 'optional_layers', ())]
    if hasattr(net, 'backbone') and getattr(net, 'head', None) is None:
        names.append('head')
    # timm's nets tell it in their `pretrained_cfg`.
    told = getattr(getattr(net, 'model', None), 'pretrained_cfg', None) or {}
    classifier = told.get('classifier') or ()
    names += [classifier] if isinstance(classifier, str) else classifier
    outermost = (_outermost_absent(name, wanted) for name in names)
    return [name for name in outermost if name is not None]


def _outermost_absent(name: str, wanted: Mapping[str, Any]) -> str | None:
    """Return the layer, or the outermost part around it, of which a net has nothing."""
    words = name.split('.')
    parts = ('.'.join(words[: count + 1]) for count in range(len(words)))
    return next(
        (x for x in parts if not any(key.startswith(f'{x}.') for key in wanted)), None
    )


def _of_their_module(model: nn.Module, weights: Mapping[str, Tensor]) -> dict:
    """Convert weights as timm and torchvision do.

    timm has a function for it beside most of its nets. torchvision renames in the
    modules that load the weights, so that a copy of the net is let load them.
    """
    found = {EARLY_DENSENET.sub(r'\1\2', name): x for name, x in weights.items()}
    convert = getattr(sys.modules[type(model).__module__], 'checkpoint_filter_fn', None)
    if convert is not None:
        try:
            converted = convert(dict(found), model)
        except Exception:  # it reads the weights of other nets, and may miss anything
            return found
        return {
            name: value if _may_become(name, found.get(name), value) else found[name]
            for name, value in converted.items()
        }
    own = model.state_dict()
    others = {k: v for k, v in found.items() if k in own and v.shape != own[k].shape}
    trial = copy.deepcopy(model)
    fitting = {k: v for k, v in found.items() if k not in others}
    try:
        missing, unexpected = trial.load_state_dict(fitting, strict=False)
    except (RuntimeError, ValueError, KeyError):
        return found
    loaded = {k: v for k, v in trial.state_dict().items() if k not in missing}
    return loaded | others | {x: found.get(x, torch.empty(0)) for x in unexpected}


def _may_become(name: str, before: Tensor | None, after: Tensor) -> bool:
    """Return whether weights of one shape may be given those of another.

    A table of positions may be resized, as timm does. Any other weight that has to be
    resized is that of another net.
    """
    return before is None or before.numel() == after.numel() or 'pos' in name


def _differences(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list:
    """Return a sentence for each tensor whose number of elements has changed."""
    return [
        f'{name} of the file, {tuple(before[name].shape)}, was resized to '
        f'{tuple(value.shape)}.'
        for name, value in after.items()
        if name in before and before[name].numel() != value.numel()
    ]


def _of_hugging_face(
    net: nn.Module,
    model: Any,
    weights: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], list[str]]:
    """Convert weights as ``from_pretrained`` does, which knows all earlier names."""
    with random_states_kept(), _silent():
        made, info = type(model).from_pretrained(
            None,
            config=copy.deepcopy(model.config),
            state_dict=dict(weights),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    loaded = made.state_dict()
    prefix = f'{model.base_model_prefix}.'
    # Some versions say the names of the file, and some those of the net.
    missing = {
        name if name in loaded else name.removeprefix(prefix)
        for name in info['missing_keys']
    }
    others = {}
    for entry in info['mismatched_keys']:
        name, shape = entry[:2] if isinstance(entry, tuple) else (entry, None)
        shape = shape or getattr(weights.get(name), 'shape', (0,))
        # Only its shape is compared.
        others[name] = torch.empty(shape, device='meta')
    found = {k: v for k, v in loaded.items() if k in wanted and k not in missing}
    found |= others
    unexpected = set(info['unexpected_keys'])
    notes = _left_out([k for k in loaded if k not in {*wanted, *missing}], 'such layer')
    if getattr(net, 'is_backbone', False):
        parts = _parts_of_others(unexpected, [*wanted, *weights], prefix)
        unexpected -= parts
        notes += _left_out(sorted(parts), 'such part')
    # Their values are not looked at, because they are refused.
    return found | dict.fromkeys(unexpected, torch.empty(0)), notes


def _parts_of_others(unexpected: set[str], names: list[str], prefix: str) -> set[str]:
    """Return the names in parts that the net has not, such as a classifier or texts.

    A part is known by the first word of its names. Beside the unexpected ones no name
    of the file or of the net may begin with it, because a layer too many within a part
    that the net has means another net.
    """

    def part(name: str) -> str:
        return name.removeprefix(prefix).partition('.')[0]

    left = {name.removeprefix(prefix) for name in unexpected}
    used = {part(name) for name in names if name.removeprefix(prefix) not in left}
    return {name for name in unexpected if part(name) not in used}


@contextmanager
def _silent() -> Iterator[None]:
    """Let transformers report nothing, because a load is reported on here."""
    logging: Any = sys.modules['transformers'].utils.logging
    level, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bar:
            logging.enable_progress_bar()
