"""Lets ranks that share no disk score together."""

from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class GatheredScoresHook(Hook):
    """Let ranks send what they have scored, because machines may share no disk.

    By default each rank of mmengine's writes it into the folder ``.dist_test``, where
    the first rank looks for it; on another machine's disk it finds nothing. Both give
    the same scores. A metric with a ``collect_dir`` is left alone. Put it into
    ``default_hooks``.
    """

    def before_val(self, runner) -> None:
        """Set the metrics of validation."""
        _send_results(runner.val_loop)

    def before_test(self, runner) -> None:
        """Set the metrics of the test."""
        _send_results(runner.test_loop)


def _send_results(loop) -> None:
    for metric in getattr(loop.evaluator, 'metrics', ()):
        if isinstance(metric, BaseMetric) and metric.collect_dir is None:
            # So mmengine calls the way through the process group, also without a GPU.
            metric.collect_device = 'gpu'
