"""Validation on images that are kept in memory."""

from mmengine.registry import LOOPS
from mmengine.runner import ValLoop
from torch.utils.data import DataLoader

from .resident import resident_loader


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
