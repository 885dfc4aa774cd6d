import cv2
import numpy as np
import pytest

from cakd_mm.datasets.whole_image import ends_well, why_unreadable


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'image.jpg'
    pixels = np.random.RandomState(0).randint(0, 256, (32, 32, 3), np.uint8)
    cv2.imwrite(str(path), pixels)
    return path


def test_a_whole_image(image):
    assert ends_well(str(image))
    assert why_unreadable(str(image)) is None


@pytest.mark.parametrize('rest', [0, 1, 2, 20, 0.25, 0.5, 0.9, -1, -2, -10])
def test_a_truncated_image(image, rest):
    data = image.read_bytes()
    count = int(rest * len(data)) if isinstance(rest, float) else rest
    image.write_bytes(data[:count])
    assert not ends_well(str(image))
    assert why_unreadable(str(image))


def test_more_behind_the_end_is_no_harm(image):
    image.write_bytes(image.read_bytes() + b'\0' * 7)
    assert not ends_well(str(image))
    assert why_unreadable(str(image)) is None


def test_a_png_under_the_name_of_a_jpeg(image, tmp_path):
    cv2.imwrite(str(tmp_path / 'image.png'), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / 'image.png').replace(image)
    assert not ends_well(str(image))
    assert why_unreadable(str(image)) is None


def test_no_file(tmp_path):
    path = str(tmp_path / 'absent.jpg')
    assert not ends_well(path)
    assert 'No such file' in why_unreadable(path)
