"""Measure mean and standard deviation of a config's images.

Reads every image of a split once, through the loading and resizing of the config's
pipeline alone, and prints the lines for ``data_preprocessor``: one number per
channel in 0..255, in the order in which the network gets the channels (RGB, unless
the config feeds BGR).
"""

import argparse
from math import sqrt

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch.utils.data import DataLoader, Dataset

import cakd_mm  # noqa: F401  (before any config is read)
from cakd_mm.engine import launch
from cakd_mm.utils.errors import describe
from cakd_mm.utils.tool_process import start_tool

RESIZING = ('Resize', 'ResizeEdge')
BATCH = 64


class Sums(Dataset):
    """Per image: pixels, and per channel the sums of values and of squares.

    Args:
        images (Dataset): Items are dicts with ``img``, (H, W, C) or (H, W) uint8.
    """

    def __init__(self, images: Dataset) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return (1 + 2 C,) int64.

        Raises:
            ValueError: the image is not of bytes.
        """
        image = self.images[index]['img']
        if image.dtype != np.uint8:
            raise ValueError(
                describe(
                    'dataset.pipeline',
                    str(image.dtype),
                    f'Image {index} has values of that type.',
                    'Load images as uint8.',
                )
            )
        channels = image.shape[2] if image.ndim == 3 else 1
        values = image.reshape(-1, channels).astype(np.int64)
        sums = [[len(values)], values.sum(0), (values * values).sum(0)]
        return np.concatenate(sums)


def add(sums: list[np.ndarray]) -> tuple[int, np.ndarray]:
    """Return how many images there are in a batch, and their sums."""
    return len(sums), np.sum(sums, axis=0)


def plain_pipeline(pipeline: list[dict], size: int | None) -> list[dict]:
    """Return the loading and resizing of a pipeline, to ``size`` if given."""
    load, resize = [], []
    for transform in pipeline:
        kind = transform['type']
        name = getattr(kind, '__name__', kind).split('.')[-1]
        if name.startswith('LoadImage'):
            load.append(transform)
        elif name in RESIZING:
            resize.append(transform)
    if size is not None:
        area = dict(type='Resize', interpolation='area')
        resize = [dict(next(iter(resize), area), scale=size)]
    return [*load, *resize]


def images(cfg: Config, split: str, size: int | None) -> Dataset:
    """Build the dataset of ``split`` without augmentation."""
    loader = f'{split}_dataloader'
    if not cfg.get(loader):
        raise ValueError(
            describe(
                loader,
                cfg.get(loader),
                'The config has no such data.',
                'Choose another --split, or another config.',
            )
        )
    launch.check_data(cfg, (split,))
    for _, part in launch.datasets(loader, cfg[loader]):
        if 'pipeline' in part:
            part.pipeline = plain_pipeline(part.pipeline, size)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(cfg[loader].dataset)


def measure(data: Dataset, workers: int, console: Console) -> tuple[int, list[int]]:
    """Return the number of images and the sums over all of them."""
    loader = DataLoader(Sums(data), BATCH, num_workers=workers, collate_fn=add)
    columns = (TextColumn('{task.description}'), BarColumn())
    columns += (TextColumn('{task.completed}/{task.total}'), TimeElapsedColumn())
    total, images_read = 0, 0
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task('images', total=len(data))
        for count, sums in loader:
            images_read += count
            total = total + sums.astype(object)  # Python's integers do not overflow.
            progress.update(bar, completed=images_read)
    return images_read, list(total)


def statistics(sums: list[int]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel, from exact integers."""
    pixels, *rest = sums
    values, squares = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    pairs = list(zip(values, squares, strict=True))
    mean = [value / pixels for value, _ in pairs]
    std = [sqrt(pixels * square - value * value) / pixels for value, square in pairs]
    return mean, std


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a config with dataloaders, a base too')
    parser.add_argument(
        '--size', type=int, help='height and width to resize to; default: the config'
    )
    parser.add_argument('--split', choices=('train', 'val', 'test'), default='train')
    parser.add_argument('--workers', type=int, default=0, help='processes that read')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=launch.OptionAction,
        default={},
        help='settings to override: train_dataloader.dataset.data_root=/path',
    )
    # The reader of configs expects these options of tools/train.py as well.
    parser.set_defaults(launcher='none', local_rank=0, work_dir=None)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = launch.read_config(args)
    data = images(cfg, args.split, args.size)
    console = Console(stderr=True)  # Only the lines go to stdout, to be piped.
    count, sums = measure(data, args.workers, console)
    mean, std = statistics(sums)
    preprocessor = cfg.get('data_preprocessor') or cfg.get('model', {}).get(
        'data_preprocessor', {}
    )
    if preprocessor.get('to_rgb', False):
        mean, std = mean[::-1], std[::-1]
    print(f'# {args.split}: {count:,} images, {sums[0]:,} pixels')
    for name, values in (('mean', mean), ('std', std)):
        print(f'{name}=[{", ".join(f"{value:.2f}" for value in values)}],')


if __name__ == '__main__':
    start_tool()
    main()
