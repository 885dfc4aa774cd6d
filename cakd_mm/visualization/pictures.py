"""The pictures of a distillation run: terms.png, clusters.png and images.png."""

from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure
from mmengine.dataset import BaseDataset
from mmengine.logging import MMLogger, print_log

from ..models.algorithms import FrozenTeacherDistill
from ..utils.extract import student_task
from . import observe, terms
from .clusters import draw_clusters
from .history import read_history
from .images import draw_images

MOST_IMAGES = 1000
FEW_IMAGES = 6
CHANNELS = 5
Pictures = Iterator[tuple[str, Figure]]


def draw_run(
    work_dir: Path | str,
    loss: str | None = None,
    checkpoint: Path | None = None,
    images: list[int] | None = None,
    channels: int | None = None,
) -> Pictures:
    """Draw what went on inside a distillation run, one picture after the other.

    Of a run without a CAKDFeatureLoss over channels there is ``terms.png`` alone, which
    is said.

    Args:
        work_dir: The work dir of a run.
        loss: The feature loss. Defaults to the first.
        checkpoint: Defaults to the newest of the work dir.
        images: Images of the validation split. Defaults to six of different classes.
        channels: Channels per image. Defaults to 5.

    Yields:
        tuple: The name of a picture's file, and the picture.

    Raises:
        FileNotFoundError: a log, a config or a checkpoint is missing.
        ValueError, IndexError: the run distils nothing, or has no such loss, image or
            channel.
    """
    work_dir = Path(work_dir)
    history, cfg = read_history(work_dir)
    losses = observe.distill_losses(cfg, work_dir)
    name = observe.choose_loss(losses, loss)
    yield 'terms.png', terms.draw_terms(history, cfg, losses)
    if not history.terms():
        print_log(
            'The log has no terms (bcd, wcd, ...): train with '
            "default_hooks.terms=dict(type='DistillTermsHook')."
        )
    if name is None:
        print_log(
            'The run has no CAKDFeatureLoss over channels (granularity pooled or '
            'channel), so there are no clusters.png and images.png.'
        )
        return
    task = student_task(cfg)
    if task.is_dense:
        print_log(
            f'clusters.png and images.png show the classes of whole images, and the '
            f'run is one of {task.name}.'
        )
        return
    checkpoint = checkpoint or observe.latest_checkpoint(work_dir)
    dataset = observe.build_dataset(cfg)
    observe.check_images(images or [], len(dataset))
    model = observe.build_model(cfg, checkpoint)
    title = f'{terms.title_of(name, losses[name])}; {checkpoint.name}'
    yield from draw_channels(model, name, dataset, title, images, channels)


def draw_channels(
    model: FrozenTeacherDistill,
    name: str,
    dataset: BaseDataset,
    title: str,
    images: list[int] | None = None,
    channels: int | None = None,
    logger: MMLogger | str | None = None,
) -> Pictures:
    """Draw which channels are strong for which class, and where in images.

    Args:
        model: In eval mode.
        name: A feature loss of it, over channels.
        dataset: Labelled images.
        title: Which loss and checkpoint it is.
        images: Those shown one by one. Defaults to six of different classes.
        channels: Channels per image. Defaults to 5.
        logger: What is told if the teacher has no maps. Defaults to standard output.

    Yields:
        tuple: The name of a picture's file, and the picture.

    Raises:
        ValueError: the feature has fewer channels.
    """
    count = CHANNELS if channels is None else channels
    labels = observe.labels_of(dataset)
    many = observe.spread(labels, MOST_IMAGES)
    found = observe.run_loss(model, name, dataset, many)
    width = found.scores.shape[1]
    observe.check_channels(count, width)
    names = observe.class_names(dataset, found, labels)
    yield 'clusters.png', draw_clusters(found, names, title)
    few = images or observe.spread(labels, FEW_IMAGES)
    found = observe.run_loss(model, name, dataset, few, pictures=True)
    if found.maps is None:
        print_log(
            f'images.png is without maps: the teacher has none of the {width} channels '
            f'of {name} (the tapped feature is neither a map nor the mean of one).',
            logger,
        )
    yield 'images.png', draw_images(found, names, count, title)
