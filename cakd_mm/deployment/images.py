"""What images a net takes, as its config says."""

from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS
from torch import Tensor, nn

from ..models.algorithms.teacher_images import normalisation_of
from ..tasks import task_of
from ..utils.errors import describe


@dataclass(frozen=True)
class Images:
    """The images that a net takes, (N, C, H, W) float32.

    Args:
        shape (tuple[int, int, int]): Channels, height and width.
        order (str): ``'RGB'`` or ``'BGR'``.
        mean (list[float]): What was subtracted from values of 0 to 255, in that order.
        std (list[float]): By what they were divided then.
        pipeline (list[dict]): The steps from an image file to such an image, but for
            the normalisation, as the config has them.
        is_known (bool): Whether no step of the pipeline normalises, too.
    """

    shape: tuple[int, int, int]
    order: str
    mean: list[float]
    std: list[float]
    pipeline: list[dict]
    is_known: bool


def images_of(cfg: Config, net: nn.Module, size: list[int] | None) -> Images:
    """Return what images a net takes.

    Args:
        cfg (Config): Its plain config.
        net (nn.Module): The net, whose preprocessor normalises.
        size (list[int], optional): Another height and width, or one number for both.
            Defaults to None, the size of the config's test images.
    """
    channels, height, width = task_of(net).image_shape(cfg)
    if size:
        height, width = size[0], size[-1]
    preprocessor: Any = net.data_preprocessor
    own = normalisation_of(preprocessor)
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    dataset = loader.get('dataset') or {}
    pipeline = [dict(step) for step in dataset.get('pipeline') or []]
    is_bgr = not own.to_rgb and channels == 3 and _are_files(dataset, pipeline)
    return Images(
        shape=(channels, height, width),
        order='BGR' if is_bgr else 'RGB',
        mean=own.mean,
        std=own.std,
        pipeline=pipeline,
        is_known="Normalize'" not in repr(pipeline),
    )


def _are_files(dataset: Any, pipeline: list[dict]) -> bool:
    """Return whether images come from files, which are read as BGR.

    The sets that come as arrays, CIFAR-10 say, hold RGB.
    """
    if any('LoadImage' in str(step.get('type')) for step in pipeline):
        return True
    kind = DATASETS.get(dataset['type']) if 'type' in dataset else None
    return isinstance(kind, type) and issubclass(kind, CustomDataset)


class Normalised(nn.Module):
    """From RGB images of 0 to 255 to what a net takes.

    Args:
        images (Images): What it takes.

    Raises:
        ValueError: a step of the pipeline normalises as well.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, images: Images) -> None:
        super().__init__()
        if not images.is_known:
            problem = 'A step of test_dataloader.dataset.pipeline normalises.'
            remedy = 'Leave it out, and do what that step does before the file.'
            raise ValueError(describe('--normalize', True, problem, remedy))
        self.is_bgr = images.order == 'BGR'
        for name, values in (('mean', images.mean), ('std', images.std)):
            row = torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
            self.register_buffer(name, row)

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, C, H, W) of (N, C, H, W)."""
        return ((images.flip(1) if self.is_bgr else images) - self.mean) / self.std
