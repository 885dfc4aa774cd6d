"""Images are measured, and those that training could not read are told."""

import cv2
import numpy as np
import pytest

from cakd_mm.datasets.image_sizes import read_sides, training_size


def test_sides_and_faults(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'a b.png'), noise)
    cv2.imwrite(str(tmp_path / 'tiny.png'), noise[:4, :5])
    cv2.imwrite(str(tmp_path / 'photo.jpg'), noise)
    (tmp_path / 'empty.png').write_bytes(b'')
    (tmp_path / 'text.jpg').write_text('no image')
    png = (tmp_path / 'a b.png').read_bytes()
    (tmp_path / 'damaged.png').write_bytes(png[:60] + bytes(len(png) - 60))
    names = sorted(x.name for x in tmp_path.iterdir())
    sides, faults = read_sides(tmp_path, names)
    assert sides == {'a b.png': 70, 'photo.jpg': 70, 'tiny.png': 4}
    assert sorted(faults) == ['damaged.png', 'empty.png', 'text.jpg']
    assert 'cannot identify' in faults['text.jpg']


@pytest.mark.parametrize(
    ('sides', 'size'),
    [([8], 32), ([40], 32), ([41], 64), ([96], 64), ([97], 224), ([30, 30, 500], 32)],
)
def test_size_of_training(sides, size):
    assert training_size(sides) == size
