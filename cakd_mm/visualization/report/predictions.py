"""The tab of images: what the distilled student gets right that it got wrong alone."""

import io
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.image import imsave
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.utils import import_modules_from_strings
from mmpretrain.registry import MODELS
from torch import Tensor

from ...utils.checkpoint import load_strictly, read_checkpoint, unwrapped
from ...utils.errors import describe
from ...utils.extract import student_task
from ..observe import build_dataset, labels_of, latest_checkpoint, originals
from ..sweep import SweptRun
from .blocks import Block, Gallery, Heading, Picture, Tab, Text
from .entries import Entry, alone

BATCH = 64
SHOWN = 12  # pictures of each kind
LONGEST = 128  # pixels of a picture's longer side, about
REMEDY = 'Put it there, or give --images 0.'


@dataclass(frozen=True)
class Compared:
    """Two students before the same images.

    Attributes:
        indices: The places of the images in the split.
        labels: Their classes, (N,).
        distilled: What the distilled student takes them for, (N,).
        plain: What the student alone takes them for, (N,).
    """

    indices: Sequence[int]
    labels: Tensor
    distilled: Tensor
    plain: Tensor

    @property
    def gained(self) -> list[int]:
        """The places, of N, that only the distilled student gets right."""
        right, wrong = self.distilled == self.labels, self.plain != self.labels
        return (right & wrong).nonzero().flatten().tolist()

    @property
    def lost(self) -> list[int]:
        """The places, of N, that only the student alone gets right."""
        wrong, right = self.distilled != self.labels, self.plain == self.labels
        return (wrong & right).nonzero().flatten().tolist()


def predictions_tab(
    entries: Sequence[Entry], most: int, tell: Callable[[str], None]
) -> Tab:
    """Return images of the validation split on which the two students differ.

    Args:
        entries: The configs.
        most: How many images are shown to the students, at most; 0 for none.
        tell: Is given a sentence on what is being done, or could not be.
    """
    distilled = [entry for entry in entries if entry.distils]
    if not distilled:
        text = 'No run has a teacher, so there is no distilled student.'
        return Tab('Predictions', [Text(text)])
    if not most:
        return Tab('Predictions', [Text('No images were asked for (--images 0).')])
    blocks: list[Block] = []
    judged: dict[Path, Tensor] = {}
    pairs = {entry.label: alone(entry, entries) for entry in distilled}
    for entry in distilled:
        plain = pairs[entry.label]
        if plain is None:
            continue
        try:
            blocks += blocks_of(entry, plain, most, judged, tell)
        except Exception as error:  # of a data set, a checkpoint, or a net of the run
            text = f'No images for {entry.label}: {error}'
            tell(text)
            blocks += [Heading(entry.label), Text(text)]
    without = [label for label, plain in pairs.items() if plain is None]
    if without:
        text = (
            'No run without a teacher has the same student and the same validation '
            f'images as {", ".join(without)}. Train that student alone, and name its '
            'work dir too.'
        )
        blocks += [Text(text)]
    return Tab('Predictions', blocks)


def blocks_of(
    entry: Entry,
    plain: Entry,
    most: int,
    judged: dict[Path, Tensor],
    tell: Callable[[str], None],
) -> list[Block]:
    """Return what is shown of one config.

    Args:
        entry: The config; it has a teacher.
        plain: The same student alone.
        most: See :func:`predictions_tab`.
        judged: The answers of students alone, by work dir, which several may need.
        tell: See :func:`predictions_tab`.

    Raises:
        FileNotFoundError, ValueError: a student or an image is missing or unreadable.
    """
    heading = Heading(entry.label)
    pair = pair_of(entry, plain)
    if pair is None:
        text = f'No finished run of {plain.label} has a seed of this config.'
        return [heading, Text(text)]
    ours, theirs = pair
    for run in pair:
        if modules := run.cfg.get('custom_imports'):
            import_modules_from_strings(**modules)
    task = student_task(ours.cfg)
    if task.is_dense:
        text = f'It is a run of {task.name}, whose answers are none of whole images.'
        return [heading, Text(text)]
    dataset = build_dataset(ours.cfg)
    labels = labels_of(dataset)
    if any(len(own) != 1 for own in labels):
        text = 'An image has several labels, or none: right and wrong are not defined.'
        return [heading, Text(text)]
    every = -(-len(dataset) // most)
    indices = range(0, len(dataset), every)
    net = student_of(ours)
    tell(f'showing {len(indices)} images to the students of {entry.label}')
    if theirs.work_dir not in judged:
        judged[theirs.work_dir] = answers(net_alone(theirs), dataset, indices)
    found = Compared(
        indices,
        torch.tensor([labels[index][0] for index in indices]),
        answers(net, dataset, indices),
        judged[theirs.work_dir],
    )
    shown = [
        (found.gained, 'Right with the teacher, wrong alone', 'no such image'),
        (found.lost, 'Right alone, wrong with the teacher', 'no such image'),
    ]
    blocks: list[Block] = [heading, Text(counts(found, ours, theirs, plain, every))]
    for places, title, none in shown:
        count = f'{len(places)} image{"s" if len(places) > 1 else ""}'
        if len(places) > SHOWN:
            count += f', the first {SHOWN} are shown'
        blocks.append(Text(f'{title}: {count if places else none}.'))
        if places:
            blocks.append(gallery(found, places[:SHOWN], dataset, net))
    return blocks


def pair_of(entry: Entry, plain: Entry) -> tuple[SweptRun, SweptRun] | None:
    """Return a distilled and a plain run of the lowest seed that both have."""
    theirs = {run.seed: run for run in plain.group.finished}
    for run in entry.group.finished:
        if run.seed in theirs:
            return run, theirs[run.seed]
    return None


def counts(
    found: Compared, ours: SweptRun, theirs: SweptRun, plain: Entry, every: int
) -> str:
    """Say how many images were won and lost, and what that makes in top-1."""
    number = len(found.indices)
    which = 'all' if every == 1 else f'one in {every} of the'
    scores = [
        100 * (answer == found.labels).double().mean().item()
        for answer in (found.distilled, found.plain)
    ]
    gained, lost = len(found.gained), len(found.lost)
    return (
        f'Seed {ours.shown_seed} of this config ({ours.work_dir}) and of {plain.label} '
        f'({theirs.work_dir}), after the last epoch, on {which} validation images: '
        f'{number}. With the teacher the student is right on {scores[0]:.2f} % of them '
        f'(the log says {ours.top1:.2f} % of all), alone on {scores[1]:.2f} % '
        f'({theirs.top1:.2f} %). It gains {gained} images and loses {lost}, which '
        f'makes {scores[0] - scores[1]:+.2f} points. Other seeds gain and lose others.'
    )


def student_of(run: SweptRun) -> BaseModel:
    """Build the plain student that a distillation run has left.

    Of a run that averages weights it is the average, because that is what is validated.

    Raises:
        FileNotFoundError: it has left none.
        ValueError: the file is not a readable checkpoint.
    """
    average = run.work_dir / 'student_ema.pth'
    weights = average if average.is_file() else run.work_dir / 'student.pth'
    config = weights.with_suffix('.py')
    if not config.is_file():
        problem = 'There is no such file, which a finished distillation leaves.'
        raise FileNotFoundError(describe('WORK_DIR', str(config), problem, REMEDY))
    return build_net(Config.fromfile(config), weights)


def net_alone(run: SweptRun) -> BaseModel:
    """Build the net of a run without a teacher, from its last checkpoint.

    Raises:
        FileNotFoundError: the checkpoint of its last score is missing.
    """
    checkpoint = latest_checkpoint(run.work_dir)
    if int(checkpoint.stem.rpartition('_')[2]) != run.end:
        problem = f'It is not the checkpoint of the last score, after {run.end}.'
        raise FileNotFoundError(describe('WORK_DIR', str(checkpoint), problem, REMEDY))
    return build_net(run.cfg, checkpoint)


def build_net(cfg: Config, checkpoint: Path) -> BaseModel:
    """Build a plain net with its weights."""
    model = cfg.model.copy()
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    content = read_checkpoint(str(checkpoint), 'WORK_DIR', REMEDY)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        net = MODELS.build(model)
    weights = unwrapped(content['state_dict'])
    load_strictly(net, weights, 'WORK_DIR', str(checkpoint), REMEDY)
    return net.to(get_device()).eval()


@torch.no_grad()
def answers(net: BaseModel, dataset: BaseDataset, indices: Sequence[int]) -> Tensor:
    """Return the class that a net takes each image for, (N,)."""
    found = []
    for start in range(0, len(indices), BATCH):
        data = batch_of(dataset, indices[start : start + BATCH], net)
        samples = net.predict(data['inputs'], data['data_samples'])
        found += [sample.pred_label.flatten().cpu() for sample in samples]
    return torch.cat(found)


def batch_of(dataset: BaseDataset, indices: Sequence[int], net: BaseModel) -> dict:
    """Return images as a net takes them."""
    items = [dataset[index] for index in indices]
    return net.data_preprocessor(pseudo_collate(items))


def gallery(
    found: Compared,
    places: Sequence[int],
    dataset: BaseDataset,
    net: BaseModel,
) -> Gallery:
    """Return images with their class and both answers."""
    chosen = [found.indices[place] for place in places]
    images = originals(batch_of(dataset, chosen, net), net.data_preprocessor)
    pictures = []
    for place, index, image in zip(places, chosen, images, strict=True):
        label, ours, theirs = (
            name_of(int(answer[place]), dataset)
            for answer in (found.labels, found.distilled, found.plain)
        )
        lines = [
            f'{label} (image {index})',
            f'with teacher: {ours}',
            f'alone: {theirs}',
        ]
        pictures.append(Picture(as_address(image), lines))
    return Gallery(pictures)


def name_of(label: int, dataset: BaseDataset) -> str:
    """Return the name of a class, shortened; its number if it has no name."""
    names = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    return f'{names[label]!s:.24}' if label < len(names) else str(label)


def as_address(image: np.ndarray) -> str:
    """Return an image, (H, W, 3) in [0, 1], as an address that holds all of it."""
    every = -(-max(image.shape[:2]) // LONGEST)
    file = io.BytesIO()
    imsave(file, image[::every, ::every], format='png')
    return f'data:image/png;base64,{b64encode(file.getvalue()).decode()}'
