"""Logs the terms of the distillation losses."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor

from ...utils.model import unwrap
from .logged import is_logged


@HOOKS.register_module()
class DistillTermsHook(Hook):
    """Log every term of every distillation loss, averaged since the last line.

    The terms (``bcd``, ``scd``, ``wcd``, ``r``, ``lambda``, ...) appear as
    ``<loss>/<term>`` wherever mmengine logs: console, json, TensorBoard. They are
    added up on the device and are only read when ``LoggerHook`` writes a line. Terms
    that cost time (``kept_*``, ``grad_ratio``) are computed in those steps alone. A
    warning of a loss, such as that of a collapsed scorer, is printed once. The hook
    does nothing for a model without a :class:`StrictDistiller`. Put it into
    ``default_hooks``.
    """

    # Ahead of LoggerHook.
    priority = 'NORMAL'

    def __init__(self) -> None:
        self.model: Any = None
        self.distiller: Any = None
        # By the names of the terms of a step: their sums on the device, and the count
        # of such steps.
        self._sums: dict[tuple[str, ...], tuple[Tensor, int]] = {}
        self._warned: set[str] = set()

    def before_train(self, runner) -> None:
        """Look for a distiller that has terms."""
        self.model = unwrap(runner.model)
        distiller = getattr(self.model, 'distiller', None)
        self.distiller = distiller if hasattr(distiller, 'terms') else None
        self._sums.clear()

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Let the losses compute terms that cost time only if a line follows."""
        if self.distiller is not None:
            self.distiller.probing = is_logged(runner, batch_idx)

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        """Add up the terms of the step, and log their means if a line follows."""
        stopped = getattr(self.model, 'distillation_stopped', False)
        if self.distiller is None or stopped:
            return
        terms = self.distiller.terms()
        if terms:
            names = tuple(terms)
            values = torch.stack([value.detach().float() for value in terms.values()])
            sums, count = self._sums.get(names, (torch.zeros_like(values), 0))
            self._sums[names] = (sums + values, count + 1)
        if is_logged(runner, batch_idx):
            self._log(runner)

    def _log(self, runner) -> None:
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
            key = text[:90]  # names the loss and the problem, without numbers
            if key not in self._warned:
                self._warned.add(key)
                runner.logger.warning(text)
