"""A part of the images for validation, with the same share of each class."""

import random
from itertools import groupby
from operator import itemgetter

from .class_folders import Sample


def stratified_split(
    samples: list[Sample], share: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Split images at random into those for training and those for validation.

    Each class gives the share of its images, rounded, to validation: at least one, and
    never its last one. A class with one image keeps it for training.

    Args:
        samples (list[Sample]): The images, sorted by label.
        share (float): Of each class, between 0 and 1.
        seed (int): The same seed splits the same images in the same way.

    Returns:
        tuple: The images for training and those for validation, each in their order.
    """
    train, val = [], []
    for label, group in groupby(samples, itemgetter(1)):
        images = list(group)
        count = min(len(images) - 1, max(1, round(share * len(images))))
        numbers = random.Random(f'{seed} {label}')
        chosen = set(numbers.sample(range(len(images)), count))
        train += [x for index, x in enumerate(images) if index not in chosen]
        val += [x for index, x in enumerate(images) if index in chosen]
    return train, val
