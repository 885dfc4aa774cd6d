"""Images on which a distilled student and the same student alone differ."""

import base64
import io
import re
import shutil

import pytest
import torch
from matplotlib.image import imread
from mmengine.config import Config
from report_runs import CAKD, PLAIN, make_run
from tiny import build
from torch import tensor

from cakd_mm.utils.extract import save_student
from cakd_mm.visualization.observe import build_dataset
from cakd_mm.visualization.report import predictions
from cakd_mm.visualization.report.blocks import Gallery, Text
from cakd_mm.visualization.report.entries import entries_of
from cakd_mm.visualization.report.predictions import Compared, as_address
from cakd_mm.visualization.sweep import read_run

FEW = 'val_dataloader = dict(dataset=dict(indices=64))'


def weights(seed):
    """Return random weights of the student, the same for a seed."""
    torch.manual_seed(seed)
    return build(Config.fromfile(PLAIN).model).state_dict()


@pytest.fixture(scope='module')
def trained_pair(tmp_path_factory):
    """The work dirs of a distilled and of a plain run, both of random weights."""
    folder = tmp_path_factory.mktemp('pair')
    ours = make_run(folder / 'cakd', CAKD, [10.0], 0, 1, FEW, 'cakd')
    theirs = make_run(folder / 'plain', PLAIN, [11.0], 0, 1, FEW, 'plain')
    save_student(read_run(ours).cfg, weights(1), ours / 'student.pth')
    torch.save(dict(state_dict=weights(2)), theirs / 'epoch_1.pth')
    return folder


@pytest.fixture
def pair(trained_pair, tmp_path):
    """The entries of these runs, in a folder that a test may change."""
    shutil.copytree(trained_pair, tmp_path, dirs_exist_ok=True)
    return entries_of([read_run(tmp_path / name) for name in ('cakd', 'plain')])


def blocks(entries, images=64):
    return predictions.predictions_tab(entries, images, lambda _: None).blocks


def test_both_directions():
    found = Compared(
        range(6),
        labels=tensor([0, 1, 2, 3, 4, 5]),
        distilled=tensor([0, 1, 0, 0, 4, 0]),
        plain=tensor([0, 0, 2, 3, 0, 1]),
    )
    assert (found.gained, found.lost) == ([1, 4], [2, 3])


@torch.no_grad()
def test_counts_and_pictures_are_those_of_the_two_nets(pair):
    cfg = read_run(pair[0].group.runs[0].work_dir).cfg
    dataset = build_dataset(cfg)
    images = torch.stack([item['inputs'] for item in dataset]).float()
    prepare = cfg.data_preprocessor
    mean, std = (tensor(x).view(-1, 1, 1) for x in (prepare.mean, prepare.std))
    images = (images - mean) / std
    labels = tensor([int(item['data_samples'].gt_label) for item in dataset])
    right = []
    for seed in (1, 2):
        net = build(Config.fromfile(PLAIN).model).eval()
        net.load_state_dict(weights(seed))
        right.append(net(images, mode='tensor').argmax(1) == labels)
    gained = (right[0] & ~right[1]).nonzero().flatten().tolist()
    lost = (right[1] & ~right[0]).nonzero().flatten().tolist()
    assert gained and lost
    _, text, *shown = blocks(pair)
    assert f'It gains {len(gained)} images and loses {len(lost)}, which' in text.text
    points = 100 * (len(gained) - len(lost)) / 64
    assert f'makes {points:+.2f} points' in text.text
    assert 'on all validation images: 64.' in text.text
    assert '(the log says 10.00 % of all)' in text.text
    titles = [block.text for block in shown if isinstance(block, Text)]
    assert titles[0].startswith('Right with the teacher, wrong alone: ')
    assert titles[1].startswith('Right alone, wrong with the teacher: ')
    galleries = [block for block in shown if isinstance(block, Gallery)]
    for places, found in zip((gained, lost), galleries, strict=True):
        assert len(found.pictures) == min(len(places), predictions.SHOWN)
        label = int(labels[places[0]])
        assert found.pictures[0].lines[0] == f'{label} (image {places[0]})'
    assert (
        galleries[0].pictures[0].lines[1] == f'with teacher: {int(labels[gained[0]])}'
    )


def test_some_images_evenly(pair):
    text = blocks(pair, images=20)[1].text
    assert 'on one in 4 of the validation images: 16.' in text


@pytest.mark.parametrize(
    ('lose', 'said'),
    [
        ('cakd/student.py', 'student.py.*no such file.*Put it there'),
        ('plain/epoch_1.pth', r'It holds no epoch_\*.pth'),
    ],
)
def test_what_is_missing_is_said(pair, tmp_path, lose, said):
    (tmp_path / lose).unlink()
    heading, text = blocks(pair)
    assert heading.text == 'cakd'
    assert re.search(said, text.text)


def test_no_student_alone_no_common_seed_no_images(pair):
    [text] = blocks(pair[:1])
    assert 'No run without a teacher' in text.text and 'images as cakd.' in text.text
    [text] = blocks(pair, images=0)
    assert text.text == 'No images were asked for (--images 0).'
    pair[1].group.finished.clear()
    assert 'No finished run of plain has a seed' in blocks(pair)[1].text


def test_a_picture_keeps_its_pixels_and_a_large_one_some():
    pixels = torch.rand(4, 6, 3, generator=torch.Generator().manual_seed(0)).numpy()
    for image, shape in ((pixels, (4, 6)), (pixels.repeat(50, 0), (100, 3))):
        start, _, content = as_address(image).partition(',')
        assert start == 'data:image/png;base64'
        read = imread(io.BytesIO(base64.b64decode(content)))
        assert read.shape[:2] == shape
        assert abs(read[0, 0, :3] - image[0, 0]).max() < 1 / 255
