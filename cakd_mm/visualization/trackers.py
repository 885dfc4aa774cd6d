"""Trackers of experiments: mmengine's backends, set up as a run of ours needs them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.visualization import (
    MLflowVisBackend,
    TensorboardVisBackend,
    WandbVisBackend,
)

from ..utils.arguments import check_arguments

# The name under which W&B and MLflow collect runs, unless the user has another.
PROJECT = 'cakd_mm'


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker has to know of a run.

    Attributes:
        work_dir: Its folder, whose name is that of the run.
        earlier: The number that the tracker has given it, if it is resumed.
    """

    work_dir: Path
    earlier: str | None = None


class TensorboardTracker(TensorboardVisBackend):
    """Writes into ``tensorboard`` in the work dir, in which all starts are one run."""

    # The package to install; what is imported of it is its name.
    package = 'tensorboard'

    def __init__(self, run: TrackedRun, settings: dict[str, Any]) -> None:
        super().__init__(str(run.work_dir / 'tensorboard'))

    @staticmethod
    def check(settings: dict[str, Any], key: str) -> None:
        """Do nothing, because it has no settings."""

    @property
    def number(self) -> None:
        """TensorBoard knows a run by its folder."""

    def add_config(self, config: Config, **kwargs) -> None:
        """Show the config as code; TensorBoard would read it as Markdown."""
        self.experiment.add_text('config', f'```python\n{config.pretty_text}\n```')


class WandbTracker(WandbVisBackend):
    """Writes to Weights & Biases, or into ``wandb`` in the work dir if offline.

    Args:
        run (TrackedRun): A resumed run goes on in the same run of W&B.
        settings (dict): Arguments of ``wandb.init``, such as ``project`` and ``mode``.
    """

    package = 'wandb'

    @staticmethod
    def check(settings: dict[str, Any], key: str) -> None:
        """Refuse arguments that ``wandb.init`` does not take."""
        import wandb

        check_arguments(wandb.init, settings, key)

    def __init__(self, run: TrackedRun, settings: dict[str, Any]) -> None:
        arguments: dict[str, Any] = dict(
            name=os.environ.get('WANDB_NAME', run.work_dir.name),
            project=os.environ.get('WANDB_PROJECT', PROJECT),
            # A resumed run may have changed its config, its length say.
            allow_val_change=True,
        )
        if run.earlier is not None:
            arguments.update(id=run.earlier, resume='allow')
        super().__init__(
            str(run.work_dir),
            init_kwargs={**arguments, **settings},
            # W&B would count lines of the log, of training and validation together.
            define_metric_cfg=[dict(name='iter'), dict(name='*', step_metric='iter')],
        )

    @property
    def number(self) -> str:
        """What W&B calls the run."""
        return self.experiment.run.id

    def add_config(self, config: Config, **kwargs) -> None:
        """Send the config; mmengine would send all code of the current folder too."""
        self.experiment.config.update(config.to_dict(), allow_val_change=True)

    def close(self) -> None:
        """End the run, so that another one may begin in this process."""
        self.experiment.finish()


class MLflowTracker(MLflowVisBackend):
    """Writes to MLflow, by default into ``mlflow.db`` in the current folder.

    Args:
        run (TrackedRun): A resumed run goes on in the same run of MLflow.
        settings (dict): Arguments of :class:`mmengine.visualization.MLflowVisBackend`,
            such as ``tracking_uri`` and ``exp_name``.
    """

    package = 'mlflow'

    @staticmethod
    def check(settings: dict[str, Any], key: str) -> None:
        """Refuse arguments that mmengine's backend does not take."""
        check_arguments(MLflowVisBackend, settings, key, supplied=('save_dir',))

    def __init__(self, run: TrackedRun, settings: dict[str, Any]) -> None:
        import mlflow

        defaults = dict(
            save_dir=str(run.work_dir),
            # That of MLFLOW_TRACKING_URI; mmengine's would be a new one at each start.
            tracking_uri=mlflow.get_tracking_uri(),
            exp_name=os.environ.get('MLFLOW_EXPERIMENT_NAME', PROJECT),
            run_name=run.work_dir.name,
        )
        super().__init__(**{**defaults, **settings})
        self.earlier = run.earlier

    def _init_env(self) -> None:
        import mlflow

        mlflow.set_tracking_uri(self._tracking_uri)
        if self.earlier is not None:
            try:
                mlflow.start_run(run_id=self.earlier)
            except mlflow.MlflowException as error:
                MMLogger.get_current_instance().warning(
                    f'MLflow begins a new run, because it does not find '
                    f'{self.earlier} at {self._tracking_uri} ({error}).'
                )
                self.earlier = None
        super()._init_env()

    @property
    def number(self) -> str:
        """What MLflow calls the run."""
        return self.experiment.active_run().info.run_id

    def add_config(self, config: Config, **kwargs) -> None:
        """Record the config as a file, and of a new run as parameters too.

        MLflow lets no parameter of a run change, such as its length.
        """
        self.cfg = config
        self.experiment.log_text(config.pretty_text, 'config.py')
        if self.earlier is None:
            try:
                self.experiment.log_params(self._flatten(config.to_dict()))
            # MLflow does not take each name, and mmengine not each list.
            except (self.experiment.MlflowException, AttributeError) as error:
                MMLogger.get_current_instance().warning(
                    f'MLflow has the config as config.py alone ({error}).'
                )


Tracker = TensorboardTracker | WandbTracker | MLflowTracker
TRACKERS: dict[str, type[Tracker]] = dict(
    tensorboard=TensorboardTracker, wandb=WandbTracker, mlflow=MLflowTracker
)
