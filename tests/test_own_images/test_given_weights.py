"""Whether a checkpoint is the teacher, or what its training begins with."""

from functools import cache, partial

import pytest
import torch
from own_images import CLASSES, PREPROCESSOR, save_net

from cakd_mm.own_images.given_weights import read_given_weights
from cakd_mm.own_images.trial import built_quietly
from cakd_mm.utils.net_names import named_net

KEY = '--teacher-ckpt'


def read(file, named):
    """Read a checkpoint for a net and the classes of the images."""
    build = cache(partial(built_quietly, named, '--teacher'))
    return read_given_weights(file, named, CLASSES, build, KEY, 'Give others.')


@pytest.fixture(scope='module')
def named():
    return named_net('resnet8', '--teacher')


@pytest.mark.parametrize(
    ('classes', 'names', 'chosen'),
    [
        (3, None, None),
        (3, CLASSES, None),
        (3, CLASSES[::-1], CLASSES),
        (4, ('red', *CLASSES), CLASSES),
    ],
)
def test_it_knows_the_classes(classes, names, chosen, named, tmp_path):
    file = save_net(tmp_path / 'own.pth', classes, names, cfg=PREPROCESSOR)
    found = read(file, named)
    assert (found.is_whole, found.classes) == (True, classes)
    assert found.chosen == chosen
    assert found.preprocessor == dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=False)


@pytest.mark.parametrize(
    ('classes', 'names'), [(5, None), (5, tuple('abcde')), (3, ('a', 'b', 'c'))]
)
def test_it_knows_others(classes, names, named, tmp_path):
    file = save_net(tmp_path / 'published.pth', classes, names)
    found = read(file, named)
    assert (found.is_whole, found.classes, found.chosen) == (False, 3, None)
    assert found.preprocessor == {}


def test_weights_of_another_net_are_refused(named, tmp_path):
    file = save_net(tmp_path / 'other.pth', 5, name='resnet20')
    with pytest.raises(ValueError, match='`--teacher-ckpt`.* are not in it'):
        read(file, named_net('resnet32x4', ''))
    content = torch.load(save_net(tmp_path / 'whole.pth', 5))
    weights = content['state_dict'].items()
    content['state_dict'] = {f'architecture.{name}': x for name, x in weights}
    torch.save(content, tmp_path / 'whole.pth')
    with pytest.raises(ValueError, match='Give the student.pth'):
        read(str(tmp_path / 'whole.pth'), named)
