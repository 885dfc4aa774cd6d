"""Lets nodes that share no disk score together."""

import os
from contextlib import suppress
from tempfile import mkdtemp

from mmengine.dist import get_world_size, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ...utils.agreement import exchange

# Where mmengine's ranks leave their results for the first one.
FOLDER = '.dist_test'


@HOOKS.register_module()
class NodeScoresHook(Hook):
    """Collect the results of all ranks where they have no folder in common.

    With ``collect_device='cpu'``, their default, metrics of mmengine hand them over in
    files below the current folder. A node that does not have this folder ends in an
    error there, and the others wait for it. Before the first validation or test ranks
    look whether they share the folder, and if not, such metrics send their results as
    with ``collect_device='gpu'``, whatever the device. Scores are the same. A single
    process does nothing of this. Put it into ``default_hooks``.
    """

    _shares_folder: bool | None = None

    def before_val(self, runner) -> None:
        """Choose how the results of a validation are collected."""
        self._choose(runner.val_evaluator)

    def before_test(self, runner) -> None:
        """Choose how the results of a test are collected."""
        self._choose(runner.test_evaluator)

    def _choose(self, evaluator: Evaluator) -> None:
        if get_world_size() == 1:
            return
        if self._shares_folder is None:
            self._shares_folder = _ranks_share_folder()
        for metric in evaluator.metrics:
            chosen = metric.collect_device == 'cpu' and metric.collect_dir is None
            if chosen and not self._shares_folder:
                metric.collect_device = 'gpu'


def _ranks_share_folder() -> bool:
    """Return whether all ranks see what the first one makes in the folder."""
    made = None
    if is_main_process():
        with suppress(OSError):  # It may not write there.
            os.makedirs(FOLDER, exist_ok=True)
            made = mkdtemp(dir=FOLDER)
    name, *_ = exchange(made)
    seen = exchange(name is not None and os.path.isdir(name))
    if made is not None:
        os.rmdir(made)
    return all(seen)
