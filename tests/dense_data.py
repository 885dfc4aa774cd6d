"""Tiny data sets in the forms of COCO and of Cityscapes."""

import json
from pathlib import Path

import cv2
import numpy as np

# Of COCO's 80; mmdet reads the names of all of them from its own list.
CATEGORIES = [(1, 'person'), (2, 'bicycle'), (3, 'car')]


def write_coco(folder: Path, count: int = 8) -> None:
    """Write images with two coloured boxes each, for training and validation."""
    generator = np.random.default_rng(0)
    for part in ('train2017', 'val2017'):
        images, annotations = [], []
        (folder / part).mkdir(parents=True)
        for index in range(count):
            height, width = (96, 64) if index % 3 else (64, 96)
            image = generator.integers(0, 60, (height, width, 3), dtype=np.uint8)
            for category, _ in CATEGORIES[:2]:
                left, top = generator.integers(0, 24, 2)
                size = 34 + 4 * category
                image[top : top + size, left : left + size, category] += 150
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=index,
                        category_id=category,
                        bbox=[int(left), int(top), size, size],
                        area=size**2,
                        iscrowd=0,
                        segmentation=[],
                    )
                )
            name = f'{index:06}.png'
            cv2.imwrite(str(folder / part / name), image)
            images.append(dict(id=index, file_name=name, height=height, width=width))
        categories = [dict(id=i, name=name) for i, name in CATEGORIES]
        content = dict(images=images, annotations=annotations, categories=categories)
        file = folder / 'annotations' / f'instances_{part}.json'
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))


def write_cityscapes(folder: Path, count: int = 8) -> None:
    """Write images whose left halves are of a class of their own."""
    generator = np.random.default_rng(0)
    for part in ('train', 'val'):
        for index in range(count):
            image = generator.integers(0, 60, (48, 96, 3), dtype=np.uint8)
            labels = np.full((48, 96), index % 2, dtype=np.uint8)
            labels[:, :48] = 2
            labels[:3] = 255
            image[:, :48, 0] += 150
            for kind, suffix, data in (
                ('leftImg8bit', '_leftImg8bit', image),
                ('gtFine', '_gtFine_labelTrainIds', labels),
            ):
                file = folder / kind / part / 'town' / f'town_{index:06}{suffix}.png'
                file.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(file), data)
