"""The numbers of a training where nobody has said them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..datasets.image_sizes import training_size
from ..utils.machine import cores
from .options import Options

PHOTOGRAPH = 224  # From this size on images are treated as photographs.
MOST_IN_BATCH, LEAST_IN_BATCH = 64, 8
LEAST_STEPS = 10  # in an epoch, where a smaller batch can bring it about
SHORT, LONG = 30, 100  # epochs


@dataclass(frozen=True)
class Settings:
    """Size of the images, and how long and in what batches a net is trained.

    Attributes:
        size: In pixels: 32 for images whose shorter side has a median of up to 40
            pixels, 64 up to 96, else 224.
        batch_size: 64, or less (at least 8) so that an epoch has 10 steps.
        epochs: 30; 100 for images of 224 pixels or more on a GPU.
        workers: Processes that load images: none for small images without a GPU, else
            one for each core, at most four.
    """

    size: int
    batch_size: int
    epochs: int
    workers: int

    @property
    def are_photographs(self) -> bool:
        """Whether images are cropped and mirrored as photographs are."""
        return self.size >= PHOTOGRAPH

    @classmethod
    def choose(cls, options: Options, sides: Sequence[int], images: int) -> 'Settings':
        """Choose what the options leave open.

        Args:
            options (Options): What was asked for.
            sides (Sequence[int]): The shorter sides of the images, in pixels.
            images (int): How many of them train.
        """
        size = options.size or training_size(sides)
        has_gpu = torch.cuda.is_available()
        batch = max(LEAST_IN_BATCH, min(MOST_IN_BATCH, images // LEAST_STEPS))
        epochs = LONG if has_gpu and size >= PHOTOGRAPH else SHORT
        workers = min(4, cores()) if has_gpu or size >= PHOTOGRAPH else 0
        return cls(
            size=size,
            batch_size=min(options.batch_size or batch, images),
            epochs=options.epochs or epochs,
            workers=workers,
        )


def optimizer_for(has_batch_norm: bool, is_pretrained: bool, batch: int) -> dict:
    """Return the config of the optimizer that suits a net.

    It is SGD for a net with batch norm and AdamW for another. The rate is 0.05 and
    0.0005 for 64 images in a batch, in proportion for another number, and a fifth of
    that for a net that has learned something already.
    """
    share = batch / 64 / (5 if is_pretrained else 1)
    if has_batch_norm:
        rate = float(f'{0.05 * share:.2g}')
        return dict(type='SGD', lr=rate, momentum=0.9, weight_decay=5e-4)
    return dict(type='AdamW', lr=float(f'{5e-4 * share:.2g}'), weight_decay=0.05)
