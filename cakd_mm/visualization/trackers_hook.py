"""Sends the log, the config and the pictures of a run to trackers of experiments."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..utils.agreement import together
from ..utils.errors import describe
from ..utils.model import unwrap
from .trackers import TRACKERS, TrackedRun, Tracker

KEY = 'default_hooks.trackers'


@HOOKS.register_module()
class TrackersHook(Hook):
    """Send what a training logs to TensorBoard, Weights & Biases or MLflow.

    They get every scalar of the log, with the terms of the losses, the config, and when
    training ends the pictures that ``cakd-mm plot`` draws: ``terms.png``, and for a
    feature loss over channels ``clusters.png`` and ``images.png``. The first rank alone
    writes. A resumed run goes on in the same curves. Put it into ``default_hooks``.

    Args:
        to (str | list[str]): ``'tensorboard'``, ``'wandb'``, ``'mlflow'``, or several
            of them. Defaults to none.
        pictures (bool): Whether to draw the pictures. Defaults to True.
        wandb (dict): Arguments of ``wandb.init``. Defaults to none.
        mlflow (dict): Arguments of :class:`mmengine.visualization.MLflowVisBackend`,
            such as ``tracking_uri``. Defaults to none.

    Raises:
        ValueError: there is no such tracker.
    """

    # After LoggerHook has logged the last line, and the student has been extracted.
    priority = 'LOWEST'

    def __init__(
        self,
        to: str | list[str] | None = None,
        pictures: bool = True,
        wandb: dict | None = None,
        mlflow: dict | None = None,
    ) -> None:
        names = [to] if isinstance(to, str) else to or []
        self.settings: dict[str, dict[str, Any]] = {}
        for name in names:
            _check_name(name, to)
            self.settings[name] = dict(wandb=wandb, mlflow=mlflow).get(name) or {}
        self.pictures = pictures
        self.trackers: dict[str, Tracker] = {}

    def before_train(self, runner) -> None:
        """Open the trackers, and show them the config.

        Raises:
            ImportError: a package is not installed. It need not be where a run is only
                tested, nor on the machines of other ranks, which write nothing.
            TypeError: a tracker has no such setting.
        """
        if self.settings:
            with together():
                if is_main_process():
                    self._open(runner)

    def _open(self, runner) -> None:
        for name, settings in self.settings.items():
            _check_package(name)
            TRACKERS[name].check(settings, f'{KEY}.{name}')
        # What the message hub knows is in the checkpoints.
        numbers = runner.message_hub.runtime_info.get('trackers', {})
        for name, settings in self.settings.items():
            run = TrackedRun(Path(runner.work_dir).absolute(), numbers.get(name))
            tracker = TRACKERS[name](run, settings)
            tracker.add_config(runner.cfg)
            numbers = {**numbers, name: tracker.number}
            self.trackers[name] = tracker
        runner.visualizer._vis_backends.update(self.trackers)
        runner.message_hub.update_info('trackers', numbers)

    def after_train(self, runner) -> None:
        """Draw and send the pictures."""
        model = unwrap(runner.model)
        if not (self.settings and self.pictures and hasattr(model, 'distiller')):
            return
        # All ranks compute them, because parts of the model may be shared out.
        for draw in (_of_channels, _of_terms):
            try:
                for name, pixels in draw(runner, model):
                    for tracker in self.trackers.values():
                        tracker.add_image(name, pixels, runner.iter)
            except Exception as error:  # The run has ended well, and is not to fail.
                runner.logger.warning(f'No picture for the trackers: {error!r}')

    def after_run(self, runner) -> None:
        """Take the trackers out, because a later run may get the same visualizer."""
        for name in self.trackers:
            # LoggerHook has closed it.
            del runner.visualizer._vis_backends[name]
        self.trackers.clear()


def _check_name(name: str, to: str | list[str] | None) -> None:
    if name not in TRACKERS:
        problem = f'There is no tracker {name!r}.'
        remedy = f'Write {", ".join(map(repr, TRACKERS))}, or a list of them.'
        raise ValueError(describe(f'{KEY}.to', to, problem, remedy))


def _check_package(name: str) -> None:
    package = TRACKERS[name].package
    # A folder of that name, which W&B makes, has a spec without an origin.
    if getattr(find_spec(package), 'origin', None) is None:
        problem = f'The package {package!r} is not installed.'
        remedy = f'Run pip install {package}, or leave {name!r} out.'
        raise ImportError(describe(f'{KEY}.to', name, problem, remedy))


def _of_terms(runner, model) -> Iterator[tuple[str, np.ndarray]]:
    # Drawing takes a second to import, which a run without trackers does not need.
    from . import terms
    from .history import read_logs
    from .pixels import pixels_of

    if is_main_process():
        history, _ = read_logs(Path(runner.work_dir))
        losses = runner.cfg.model.distiller.distill_losses
        yield 'terms.png', pixels_of(terms.draw_terms(history, runner.cfg, losses))


def _of_channels(runner, model) -> Iterator[tuple[str, np.ndarray]]:
    from . import observe, terms
    from .pictures import draw_channels
    from .pixels import pixels_of

    losses = runner.cfg.model.distiller.distill_losses
    name = observe.choose_loss(losses, None)
    if name is None or runner.cfg.get('val_dataloader') is None:
        return
    model.eval()
    dataset = observe.build_dataset(runner.cfg)
    title = f'{terms.title_of(name, losses[name])}; step {runner.iter}'
    for file, figure in draw_channels(model, name, dataset, title, logger='current'):
        yield file, pixels_of(figure)
