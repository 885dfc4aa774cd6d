"""Loaders of images that are kept in memory."""

from torch import nn
from torch.utils.data import DataLoader

from ...utils.errors import describe
from ...utils.model import unwrap

# Options of worker processes, which a resident loader does without.
WORKERS = (
    'worker_init_fn',
    'prefetch_factor',
    'timeout',
    'multiprocessing_context',
    'disable_subprocess_warning',
    'pin_memory_device',
    'in_order',
)


def resident_loader(
    dataloader: dict | DataLoader, model: nn.Module, seed: int = 0
) -> dict:
    """Return a loader's config with its dataset kept on the model's device.

    Its sampler and batch size stay; the images are decoded when it is built.

    Args:
        dataloader: Config of the ordinary loader.
        model: Where its parameters are, the images go.
        seed: The run's seed.

    Raises:
        ValueError: the loader is built already.
    """
    if not isinstance(dataloader, dict):
        raise ValueError(
            describe(
                'train_cfg.resident',
                True,
                'A loader that is built already cannot be made resident.',
                'Give the config of train_dataloader (val_dataloader).',
            )
        )
    dataset = dict(
        type='ResidentDataset',
        dataset=dataloader['dataset'],
        seed=seed,
        device=str(next(unwrap(model).parameters()).device),
    )
    if isinstance(dataloader['dataset'], dict):
        # Who keeps no scan of the folder keeps no images either.
        dataset['cache_dir'] = dataloader['dataset'].get('cache_dir', 'auto')
    return {
        **{key: dataloader[key] for key in dataloader if key not in WORKERS},
        'dataset': dataset,
        'collate_fn': dict(type='resident_collate'),
        'num_workers': 0,
        'persistent_workers': False,
        'pin_memory': False,
    }
