"""Batch normalisation that does not train, folded into the convolution before it."""

from collections import Counter
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

from .tapped import tensors_of

# The kinds that PyTorch's own fusion is written for, not what is derived from them.
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fold_batchnorm(
    net: nn.Module, run: Callable[[nn.Module], object], keep: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """Fold every normalisation whose only input is what a convolution has just given.

    Which layers follow each other, and whether anything else uses what is between
    them, is seen in a forward pass, and not guessed from the order in which they were
    registered. What reads a layer's weights in its own way cannot be seen: compare the
    outputs.

    Args:
        net (nn.Module): The net in eval mode; it is changed.
        run (Callable): Runs ``net`` once.
        keep (Collection[str]): Names of modules that have to stay as they are: a
            convolution whose output, or a normalisation whose input is looked at.

    Returns:
        tuple[list[str], list[str]]: Names of the normalisation layers that are gone,
        and of those that are there because of ``keep``.
    """
    names = {module: name for name, module in net.named_modules()}
    folded, kept = [], []
    for conv, norm in _followers(net, run).items():
        if names[conv] in keep or names[norm] in keep:
            kept.append(names[norm])
            continue
        _replace(net, names[conv], fuse_conv_bn_eval(conv, norm))
        _replace(net, names[norm], nn.Identity())
        folded.append(names[norm])
    return folded, kept


class _Uses(TorchFunctionMode):
    """Counts how often each tensor goes into an operation that gives a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Run the operation."""
        result = function(*args, **(kwargs or {}))
        if tensors_of(result):  # not the reading of a size
            given = tensors_of([list(args), list((kwargs or {}).values())])
            self.count.update(map(id, given))
        return result


def _followers(
    net: nn.Module, run: Callable[[nn.Module], object]
) -> dict[nn.Module, nn.Module]:
    """Return the normalisation after each convolution, if both run once."""
    made: list[tuple[Tensor, nn.Module]] = []
    followers: dict[nn.Module, nn.Module] = {}
    calls: Counter[nn.Module] = Counter()
    uses = _Uses()

    def after_conv(module: nn.Module, _, output: Tensor) -> None:
        calls[module] += 1
        made.append((output, module))  # alive, its id is its own
        uses.count.pop(id(output), None)

    def before_norm(module: nn.Module, inputs: tuple) -> None:
        calls[module] += 1
        source = next((conv for out, conv in made if out is inputs[0]), None)
        if source is not None:
            followers[source] = module

    handles = []
    for module in net.modules():
        if type(module) in CONVOLUTIONS:
            handles.append(module.register_forward_hook(after_conv))
        elif isinstance(module, _BatchNorm) and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(before_norm))
    try:
        with torch.no_grad(), uses:
            run(net)
    finally:
        for handle in handles:
            handle.remove()
    alone = {conv for out, conv in made if uses.count[id(out)] == 1}
    return {
        conv: norm
        for conv, norm in followers.items()
        if conv in alone and calls[conv] == calls[norm] == 1
    }


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition('.')
    setattr(net.get_submodule(parent), leaf, module)
