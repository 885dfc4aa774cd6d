"""Images per second of resident data against mmpretrain's pipelines, batch 64.

Tiny-ImageNet's jpgs from data/tiny-imagenet-200 (made-up ones with --quick) go through
the loaders that mmengine builds and become normalised float32 batches. A loader with
workers gets its first few batches of each visit for nothing, because they wait from the
last visit. Visits are so long that this is a few per cent, in its favour.

Where others use the machine, write ``--threads 1``: torch's threads wait for each
other, and batches this small then take many times as long.

Then made-up jpgs of 400x350 go through an ImageNet pipeline with 0 to 4 workers, and
the time of each of its stages is printed.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from common import ROOT, arguments, device, interleave, parse, save, spread, summarize
from mmengine.dataset import default_collate
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.models.utils import ClsDataPreprocessor
from torch.utils.data import DataLoader

from cakd_mm.datasets import ResidentDataset
from cakd_mm.datasets.batch_ops import normalized

BATCH = 64
MEAN, STD = [122.54, 114.38, 101.56], [64.30, 62.43, 66.05]
READ = dict(type='LoadImageFromFile')
PACK = dict(type='PackInputs')
RANDOM = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
]
IMAGENET = [
    READ,
    dict(type='RandomResizedCrop', scale=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
]


def paint(
    folder: Path, classes: int, each: int, size: tuple[int, int], noise: float
) -> float:
    """Write smooth jpgs with some noise; return their mean size in kB."""
    rng = np.random.default_rng(0)
    total = 0
    for name in range(classes):
        place = folder / 'train' / f'n{name}'
        place.mkdir(parents=True)
        for number in range(each):
            coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
            image = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
            image = (image + rng.normal(0, noise, image.shape)).clip(0, 255)
            quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
            jpg = cv2.imencode('.jpg', image.astype(np.uint8), quality)[1]
            total += (place / f'{number}.JPEG').write_bytes(jpg.tobytes())
    return total / (classes * each) / 1e3


def loader(
    dataset: dict, workers: int = 0, collate: str = 'default_collate'
) -> DataLoader:
    """Return the loader that mmengine builds from a config."""
    return Runner.build_dataloader(
        dict(
            dataset=dataset,
            batch_size=BATCH,
            num_workers=workers,
            persistent_workers=workers > 0,
            drop_last=True,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type=collate),
        ),
        seed=0,
    )


def endless(batches: DataLoader) -> Iterator[dict]:
    """Yield batches, epoch after epoch."""
    while True:
        yield from batches


def images(root: Path, *pipeline: dict, **options) -> dict:
    """Return the config of a folder of images."""
    kind = dict(type='CustomDataset', data_root=str(root), data_prefix='train')
    return {**kind, 'pipeline': [*pipeline, PACK], **options}


def small_variants(root: Path, per_class: int, cache: str) -> tuple[dict, dict]:
    """Return what is timed on small images, and what making it resident took."""
    preprocessor = ClsDataPreprocessor(mean=MEAN, std=STD, to_rgb=True).to(device())
    ordinary = images(root, READ, *RANDOM)
    took = {}
    for name in ('first time', 'second time'):
        start = time.perf_counter()
        resident = dict(type='ResidentDataset', dataset=ordinary, cache_dir=cache)
        resident['device'] = device()
        in_memory = loader(resident, collate='resident_collate')
        took[f'{name}, s'] = round(time.perf_counter() - start, 2)
    dataset: ResidentDataset = in_memory.dataset
    took['images'], took['MB'] = len(dataset), dataset.images.nbytes / 1e6

    def batches() -> Iterator[dict]:
        for epoch in range(10**9):
            dataset.epoch.fill_(epoch)
            yield from in_memory

    def whole(batch: dict) -> torch.Tensor:
        numbers = preprocessor.mean, preprocessor.std
        return normalized(batch['inputs'], *numbers, to_rgb=True)

    def next_of(source: Iterator, then: Callable = preprocessor) -> Callable:
        return lambda: then(next(source))

    memory = images(root, *RANDOM, type='DecodedImages', per_class=(0, per_class))
    variants = {
        f'jpg, {workers} workers': next_of(endless(loader(ordinary, workers)))
        for workers in (0, 1, 2)
    }
    variants |= {
        'in memory, one by one': next_of(endless(loader(memory))),
        'resident, uint8': next_of(batches(), lambda batch: batch),
        'resident': next_of(batches(), whole),
        'resident, mmpretrain preprocessor': next_of(batches()),
    }
    return variants, took


def stages(root: Path) -> dict[str, float]:
    """Return the milliseconds that one large image takes at each stage."""
    dataset = loader(images(root, *IMAGENET)).dataset
    seconds: dict[str, list[float]] = {}
    items = []
    for index in range(min(len(dataset), BATCH)):
        data = dataset.get_data_info(index)
        for step in dataset.pipeline.transforms:
            start = time.perf_counter()
            data = step(data)
            name = type(step).__name__
            seconds.setdefault(name, []).append(time.perf_counter() - start)
        items.append(data)
    start = time.perf_counter()
    default_collate(items)
    seconds['collate'] = [(time.perf_counter() - start) / len(items)]
    return {name: 1e3 * spread(values)[0] for name, values in seconds.items()}


def show(rows: list[dict]) -> None:
    """Print the rows with images per second, which are also added to the rows."""
    baseline = rows[0]['variant']
    print(f'\n| variant | images/s | quartiles | times {baseline} | quartiles |')
    print('| --- | --- | --- | --- | --- |')
    for row in rows:
        row['images_per_s'] = BATCH / row['median_ms'] * 1e3
        high, low = (BATCH / ms * 1e3 for ms in row['quartiles_ms'])
        least, most = row['faster_quartiles']
        print(
            f'| {row["variant"]} | {row["images_per_s"]:,.0f} | {low:,.0f} to '
            f'{high:,.0f} | {row["faster"]:.2f} | {least:.2f} to {most:.2f} |'
        )


def small_images(args: argparse.Namespace, folder: Path) -> dict:
    """Time resident data and what it is compared with."""
    root, per_class = args.data, 50
    if args.quick:
        root, per_class = folder / 'small', 32
        paint(root, 4, per_class, (32, 32), 8)
    variants, took = small_variants(root, per_class, str(folder))
    print(took)
    times = interleave(variants, args.rounds, 0.01 if args.quick else 1.0)
    rows = summarize(times, 'jpg, 0 workers')
    show(rows)
    return dict(resident=took, rows=rows)


def large_images(args: argparse.Namespace, folder: Path) -> dict:
    """Time an ImageNet pipeline with several numbers of workers."""
    root = folder / 'large'
    kilobytes = paint(root, 4, 16 if args.quick else 128, (400, 350), 12)
    print(f'\nImageNet pipeline, jpgs of {kilobytes:.0f} kB')
    config = images(root, *IMAGENET)
    variants = {}
    for workers in (0, 1) if args.quick else (0, 1, 2, 3, 4):
        source = endless(loader(config, workers))
        variants[f'{workers} workers'] = partial(next, source)
    times = interleave(variants, args.rounds, 0.01 if args.quick else 3.0, warmup=1)
    rows = summarize(times, '0 workers')
    show(rows)
    parts = stages(root)
    print({name: round(ms, 3) for name, ms in parts.items()}, 'ms an image')
    return dict(rows=rows, kilobytes=kilobytes, stage_ms=parts)


def main() -> None:
    """Time all variants and print the tables."""
    parser = arguments(__doc__)
    default = ROOT / 'data' / 'tiny-imagenet-200'
    parser.add_argument('--data', type=Path, default=default, help='with train/')
    args = parse(parser)
    cv2.setNumThreads(0)  # as the configs' env_cfg does
    with (
        TemporaryDirectory() as folder,
        DefaultScope.overwrite_default_scope('mmpretrain'),
    ):
        small = small_images(args, Path(folder))
        large = large_images(args, Path(folder))
    save(args, 'resident_data', dict(small=small, imagenet=large))


if __name__ == '__main__':
    main()
