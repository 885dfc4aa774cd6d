"""Loaders and validation of images that stay in memory."""

from mmengine.registry import LOOPS
from mmengine.runner import ValLoop
from torch import nn
from torch.utils.data import DataLoader

from ...utils.errors import describe
from ...utils.model import unwrap

# Options of worker processes, which a resident loader does not have.
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
    """Return a loader's config whose decoded images stay on the model's device.

    Sampler and batch size stay the same. The images are decoded when it is built.

    Args:
        dataloader: Config of the ordinary loader.
        model: The model whose parameters are on the device to use.
        seed: The run's seed. Defaults to 0.

    Raises:
        ValueError: the loader is built already.
    """
    if not isinstance(dataloader, dict):
        problem = 'A loader that is built already cannot be made resident.'
        remedy = 'Give the config of train_dataloader (val_dataloader).'
        raise ValueError(describe('train_cfg.resident', True, problem, remedy))
    dataset = dict(
        type='ResidentDataset',
        dataset=dataloader['dataset'],
        seed=seed,
        device=str(next(unwrap(model).parameters()).device),
    )
    if isinstance(dataloader['dataset'], dict):
        # A user who wants no cache of the file list wants none of the images either.
        dataset['cache_dir'] = dataloader['dataset'].get('cache_dir', 'auto')
    return {
        **{key: dataloader[key] for key in dataloader if key not in WORKERS},
        'dataset': dataset,
        'collate_fn': dict(type='resident_collate'),
        'num_workers': 0,
        'persistent_workers': False,
        'pin_memory': False,
    }


@LOOPS.register_module()
class ResidentValLoop(ValLoop):
    """:class:`mmengine.ValLoop` whose decoded images stay on the model's device.

    Use it with ``val_cfg=dict(type='ResidentValLoop')``; see
    :class:`ResidentDataset`.

    Args:
        runner (Runner): The runner.
        dataloader (dict): Config of the loader.
        *args: As in mmengine.
        **kwargs: As in mmengine.

    Raises:
        ValueError: the data cannot be made resident.
    """

    def __init__(self, runner, dataloader: DataLoader | dict, *args, **kwargs) -> None:
        loader = resident_loader(dataloader, runner.model, runner.seed)
        super().__init__(runner, loader, *args, **kwargs)
