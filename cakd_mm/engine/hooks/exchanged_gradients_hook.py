"""Stops several ranks in a step in which they have not exchanged their gradients."""

import re

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.nn.parallel import DistributedDataParallel

from ...utils.errors import describe, first_of
from ...utils.model import exchanged_parameters
from .unused_parameters_hook import KEY, STATIC, WRITE

# How PyTorch names the parameters that a wrapper has waited for.
INDICES = re.compile(r'Parameter indices which did not receive grad[^:]*: ([\d ]+)')


@HOOKS.register_module()
class ExchangedGradientsHook(Hook):
    """Stop in the very step in which ranks have not exchanged all gradients.

    Where a parameter gets no gradient, PyTorch's ``DistributedDataParallel`` leaves all
    those that it would have sent with it, or all there are, to each rank. It says so in
    the next step, by when weights that differ between ranks have been saved, and not at
    all after the last step. :class:`UnusedParametersHook` looks at the first step of an
    epoch; this hook looks at each one, before anything is made of the weights. No rank
    waits for it. Put it into ``default_hooks``. It does nothing for one rank or for
    another wrapper.

    Raises:
        ValueError: a parameter got no gradient, and the wrapper was not told.
    """

    # Ahead of every hook that uses the weights.
    priority = 'VERY_HIGH'

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        """Ask the wrapper whether it has done all that it waited for."""
        wrapper = runner.model
        if not isinstance(wrapper, DistributedDataParallel) or get_world_size() == 1:
            return
        try:
            wrapper._check_reducer_finalized()
        except RuntimeError as error:
            trained = list(exchanged_parameters(wrapper))
            found = INDICES.search(str(error))
            names = [trained[int(x)] for x in found[1].split()] if found else []
            problem = f'{first_of(names) or "A parameter"} got no gradient in step '
            problem += f'{runner.iter + 1}, and ranks have waited for it, so that now '
            problem += 'their weights differ.'
            if wrapper.static_graph:
                remedy = f'Write model_wrapper_cfg.{KEY}=True instead of it.'
                text = describe(STATIC, True, problem, remedy)
            else:
                text = describe(KEY, wrapper.find_unused_parameters, problem, WRITE)
            raise ValueError(text) from error
