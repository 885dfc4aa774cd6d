"""Scenes composed of small scans: where each object is, and which pixels are its."""

from dataclasses import dataclass

import cv2
import numpy as np

# A pixel belongs to an object where its ink reaches this share of full ink.
LEAST_INK = 0.4
# Boxes may share this part of the smaller one, so that each object stays legible.
MOST_SHARED = 0.1
# How often a place is looked for. What finds none is left out of its scene.
TRIES = 30
# Standard deviation of the noise of a pixel, in grey levels of 0 to 255.
NOISE = 8.0


@dataclass
class Scene:
    """A composed image of height H and width W, and what is on it.

    Args:
        image (np.ndarray): (H, W) uint8 grey levels.
        owner (np.ndarray): (H, W) int, the place in ``labels`` of the object that a
            pixel belongs to, and -1 for the background.
        labels (np.ndarray): (K,) int, the class of each object.
    """

    image: np.ndarray
    owner: np.ndarray
    labels: np.ndarray

    def box(self, index: int) -> list[float]:
        """Return ``[left, top, right, bottom]`` of an object, in pixels.

        The box is tight: left and top are those of its first pixels, right and bottom
        lie behind its last ones.
        """
        rows, columns = np.nonzero(self.owner == index)
        edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        return [float(edge) for edge in edges]

    def classes(self) -> np.ndarray:
        """Return the map of classes, (H, W) uint8: 0 for background, else class + 1."""
        return np.append(self.labels + 1, 0)[self.owner].astype(np.uint8)


def run_lengths(mask: np.ndarray) -> dict:
    """Return a mask, (H, W) bool, as COCO has it: lengths of runs down the columns.

    The first run is of pixels outside the mask, and may have no length.
    """
    flat = np.concatenate([[False], mask.T.ravel(), [not mask.T.ravel()[-1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(ends, prepend=0)
    return dict(size=list(mask.shape), counts=[int(count) for count in counts])


def compose(
    scans: np.ndarray,
    labels: np.ndarray,
    size: int,
    objects: tuple[int, int],
    sides: tuple[int, int],
    rng: np.random.Generator,
) -> Scene:
    """Compose a scene of scans that are drawn, enlarged and placed at random.

    The background has one grey level and the ink a lighter one, both drawn; Gaussian
    noise is added. Boxes share little. Where the ink of two objects meets, a pixel
    belongs to the one with more.

    Args:
        scans (np.ndarray): (N, h, w) uint8, what the scenes are composed of.
        labels (np.ndarray): (N,) int, their classes.
        size (int): Height and width of the scene, in pixels.
        objects (tuple[int, int]): The least and the largest number of objects. A scene
            has fewer where no place is left.
        sides (tuple[int, int]): The least and the largest side of an enlarged scan,
            in pixels, at most ``size``.
        rng (np.random.Generator): What is drawn comes from here.
    """
    ink = np.zeros((size, size), np.float32)
    owner = np.full((size, size), -1)
    boxes: np.ndarray = np.zeros((0, 4), int)
    found = []
    for _ in range(rng.integers(objects[0], objects[1], endpoint=True)):
        chosen = rng.integers(len(scans))
        side = int(rng.integers(sides[0], sides[1], endpoint=True))
        scan = cv2.resize(scans[chosen], (side, side), interpolation=cv2.INTER_CUBIC)
        scan = scan.astype(np.float32) / 255
        rows, columns = np.nonzero(scan >= LEAST_INK)
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        places = rng.integers(0, size - side, (TRIES, 2), endpoint=True)
        tried = tight + np.tile(places, 2)
        free = (shared(tried[:, None], boxes) <= MOST_SHARED).all(1)
        if not free.any():
            continue
        x, y = places[free.argmax()]
        place = np.s_[y : y + side, x : x + side]
        owner[place][(scan >= LEAST_INK) & (scan > ink[place])] = len(boxes)
        np.maximum(ink[place], scan, out=ink[place])
        boxes = np.append(boxes, tried[free.argmax()][None], axis=0)
        found.append(labels[chosen])
    dark = rng.uniform(20, 100)
    bright = rng.uniform(dark + 80, 240)
    image = dark + (bright - dark) * ink + rng.normal(0, NOISE, ink.shape)
    return Scene(image.round().clip(0, 255).astype(np.uint8), owner, np.array(found))


def shared(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the area that boxes share, as a part of the smaller one's.

    Boxes are (..., 4), left, top, right, bottom, of shapes that broadcast.
    """
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., 2:], others[..., 2:])
    areas = [(x[..., 2:] - x[..., :2]).prod(-1) for x in (boxes, others)]
    return (high - low).clip(0).prod(-1) / np.minimum(*areas)
