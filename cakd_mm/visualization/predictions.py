"""What plain nets make of test images, drawn beside the truth."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from ..tasks import task_of_config
from ..utils.errors import describe


def draw_predictions(
    nets: Mapping[str, tuple[Path, Path]],
    path: Path,
    count: int = 4,
    least_score: float = 0.3,
) -> Path:
    """Draw the first test images, their truth, and the predictions of each net.

    The nets segment or detect, and share their test images. Each row is an image.

    Args:
        nets (Mapping): Config and checkpoint of plain nets by their titles.
        path (Path): The picture's file.
        count (int): How many images. Defaults to 4.
        least_score (float): A box of a lower score, 0 to 1, is not drawn. The titles
            of nets that detect say so. Defaults to 0.3, as in mmdet's own pictures.

    Returns:
        Path: ``path``.

    Raises:
        ValueError: ``least_score`` is no score.
    """
    if not 0 <= least_score <= 1:
        problem, remedy = 'It is no score.', 'Write a number from 0 to 1.'
        raise ValueError(describe('least_score', least_score, problem, remedy))
    columns = {}
    for title, (config, checkpoint) in nets.items():
        images, samples, meta = predict(Config.fromfile(config), checkpoint, count)
        columns[title] = samples
    truth = [('image', images, None), ('truth', images, samples)]
    shown: list[Any] = [*truth, *((name, images, x) for name, x in columns.items())]
    size = (2.2 * len(shown), 2.2 * len(images))
    figure, axes = plt.subplots(len(images), len(shown), figsize=size, squeeze=False)
    for column, (title, _, found) in enumerate(shown):
        if column > 1 and 'pred_instances' in found[0]:
            title = f'{title}, scores from {least_score:g}'
        axes[0, column].set_title(title, fontsize=8)
        for row, image in enumerate(images):
            axis = axes[row, column]
            axis.axis('off')
            axis.imshow(image)
            if found is not None:
                _draw(axis, found[row], column == 1, meta, least_score)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def predict(cfg: Config, checkpoint: Path, count: int) -> tuple[list, list, dict]:
    """Return images, (H, W, 3) uint8, samples with predictions, and the set's classes.

    Args:
        cfg (Config): Of a plain net, with a ``test_dataloader``.
        checkpoint (Path): Its weights.
        count (int): How many of the first images.
    """
    cfg = copy.deepcopy(cfg)
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    init_default_scope(cfg.default_scope)
    task = task_of_config({'_scope_': cfg.default_scope, **cfg.model})
    net: Any = task.load(cfg, str(checkpoint))
    dataset: Any = Runner.build_dataloader(cfg.test_dataloader).dataset
    items = [dataset[index] for index in range(min(count, len(dataset)))]
    images = [item['inputs'].permute(1, 2, 0).numpy() for item in items]
    return images, net.test_step(pseudo_collate(items)), dataset.metainfo


def _draw(
    axis: Any, sample: Any, is_truth: bool, meta: dict, least_score: float
) -> None:
    """Draw the truth, or the predictions, that a sample has."""
    if 'pred_sem_seg' in sample:
        classes = sample.gt_sem_seg if is_truth else sample.pred_sem_seg
        palette = np.array(meta['palette'], np.uint8)
        axis.imshow(palette[classes.data.squeeze(0).numpy()])
        return
    if is_truth:
        found = [(x['bbox'], x['bbox_label'], 1.0) for x in sample.instances]
    else:
        boxes = sample.pred_instances.numpy()
        found = list(zip(boxes.bboxes, boxes.labels, boxes.scores, strict=True))
    for (left, top, right, bottom), label, score in found:
        if score >= least_score:
            corner, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
            colour = f'C{label % 10}'
            axis.add_patch(plt.Rectangle(corner, *size, fill=False, color=colour))
            name = meta['classes'][label]
            axis.text(*corner, name, fontsize=8, color=colour, va='bottom')
