"""The configs by name, in mmpretrain's ``ModelHub``."""

from pathlib import Path

from mmpretrain.apis import ModelHub

MIM = Path(__file__).resolve().parents[1] / '.mim'


def register_models() -> None:
    """Let ``ModelHub.get('dkd_r56_r20_cifar100')`` find the installed configs.

    A checkout that is not installed has no index, so nothing is registered.
    """
    index = MIM / 'model-index.yml'
    if index.is_file():
        ModelHub.register_model_index(index, config_prefix=MIM)
