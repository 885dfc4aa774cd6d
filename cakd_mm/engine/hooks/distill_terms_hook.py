"""Shows what goes on inside the distillation losses."""

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor

from ...utils.model import unwrap
from .logged import is_logged, logger_hook


@HOOKS.register_module()
class DistillTermsHook(Hook):
    """Log every term of every distillation loss, averaged since the last line.

    The terms (``bcd``, ``scd``, ``wcd``, ``r``, ``lambda``, ...) appear as
    ``<loss>/<term>`` wherever mmengine logs: console, json, TensorBoard. They are
    added up on the device and read when ``LoggerHook`` writes a line, which is
    the one synchronisation. What costs extra (``kept_*``, ``grad_ratio``) is
    computed in those steps only. A collapsed scorer is reported here, once. Does
    nothing for a model without a :class:`StrictDistiller`. Put it into
    ``default_hooks``.
    """

    # Ahead of LoggerHook.
    priority = 'NORMAL'

    def __init__(self) -> None:
        # By the names that came together: sums on the device, and their count.
        self._sums: dict[tuple[str, ...], tuple[Tensor, int]] = {}
        self._warned: set[str] = set()

    def before_train(self, runner) -> None:
        """Look up what is logged, and when."""
        self.model = unwrap(runner.model)
        distiller = getattr(self.model, 'distiller', None)
        self.distiller = distiller if hasattr(distiller, 'terms') else None
        self.logger_hook = logger_hook(runner)
        self._sums.clear()

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Let the losses compute what is only logged if a line follows."""
        if self.distiller is not None:
            self.distiller.probing = is_logged(runner, self.logger_hook, batch_idx)

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        """Add the step's terms up; hand their means over before a line is logged."""
        stopped = getattr(self.model, 'distillation_stopped', False)
        if self.distiller is None or stopped:
            return
        terms = self.distiller.terms()
        if terms:
            names = tuple(terms)
            values = torch.stack([value.detach().float() for value in terms.values()])
            sums, count = self._sums.get(names, (0, 0))
            self._sums[names] = (sums + values, count + 1)
        if is_logged(runner, self.logger_hook, batch_idx):
            self._hand_over(runner)

    def _hand_over(self, runner) -> None:
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, (total, count) in self._sums.items():
            for name, value in zip(names, total.tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + count
        self._sums.clear()
        means = {name: total / counts[name] for name, total in sums.items()}
        for name, mean in means.items():
            runner.message_hub.update_scalar(f'train/{name}', mean)
        for text in self.distiller.warnings(means):
            key = text[:90]  # what is wrong with which loss
            if key not in self._warned:
                self._warned.add(key)
                runner.logger.warning(text)
