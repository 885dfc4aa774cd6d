"""Branches that a net has for its training, merged into one."""

import copy

from torch import nn

from ..utils.errors import describe, start_of


def merged(net: nn.Module) -> tuple[nn.Module, bool]:
    """Return a net without branches that are for training only, and if it had any.

    RepVGG, MobileOne and others of mmpretrain say by ``switch_to_deploy`` how theirs
    become one layer with equal outputs. Any other net is returned as it is.

    Raises:
        ValueError: the net cannot merge them.
    """
    if not _switches(net):
        return net, False
    plain = copy.deepcopy(net)
    for module in _switches(plain):
        try:
            module.switch_to_deploy()
        except Exception as error:  # mmpretrain asserts
            kind = type(module).__name__
            problem = f'{kind} cannot merge its branches ({start_of(error, 200)}).'
            remedy = 'Give --as-trained, which leaves them.'
            raise ValueError(describe('config', kind, problem, remedy)) from error
    return plain, True


def _switches(module: nn.Module) -> list:
    """Return the outermost parts that can merge what is within them."""
    if callable(getattr(module, 'switch_to_deploy', None)):
        return [] if getattr(module, 'deploy', False) else [module]
    return [found for child in module.children() for found in _switches(child)]
