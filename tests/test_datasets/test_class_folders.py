"""Which images of a folder are of which class, and what is refused by name."""

from pathlib import Path

import pytest

from cakd_mm.datasets.class_folders import read_class_folders

CLASSES = ('ant', 'bee')


def write(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b'')
    return root


def test_images_of_all_kinds_and_depths_are_found(tmp_path):
    root = write(
        tmp_path / 'my images',
        *('bee/2.JPG', 'bee/deep/er/1.png', 'ant/a b.webp', 'ant/notes.txt'),
        *('ant/.hidden.png', '.git/x.png', 'readme.md', 'loose.png', 'ant/README'),
    )
    (root / 'bee' / 'linked.png').symlink_to(root / 'bee' / '2.JPG')
    (root / 'bee' / 'circle').symlink_to(root / 'bee')
    found = read_class_folders(root, 'DATA')
    assert found.classes == CLASSES
    assert found.train == [
        ('ant/a b.webp', 0),
        ('bee/2.JPG', 1),
        ('bee/deep/er/1.png', 1),
        ('bee/linked.png', 1),
    ]
    assert (found.val, found.unused) == ([], [])
    assert found.left_out == {
        '.txt': 1,
        'without a suffix': 1,
        '.md beside the class folders': 1,
        '.png beside the class folders': 1,
    }


@pytest.mark.parametrize('val', ['val', 'Validation', 'test'])
def test_parts_in_any_case(val, tmp_path):
    images = [f'{part}/{name}/1.png' for part in ('Train', val) for name in CLASSES]
    found = read_class_folders(write(tmp_path, *images), 'DATA')
    assert found.train == [('Train/ant/1.png', 0), ('Train/bee/1.png', 1)]
    assert found.val == [(f'{val}/ant/1.png', 0), (f'{val}/bee/1.png', 1)]


def test_validation_may_lack_a_class_and_a_third_part_is_not_used(tmp_path):
    images = ['train/ant/1.png', 'train/bee/1.png', 'val/bee/2.png', 'test/ant/3.png']
    found = read_class_folders(write(tmp_path, *images), 'DATA')
    assert (found.val, found.unused) == ([('val/bee/2.png', 1)], ['test'])


def test_a_class_may_be_called_train(tmp_path):
    found = read_class_folders(write(tmp_path, 'train/1.png', 'bus/1.png'), 'DATA')
    assert found.classes == ('bus', 'train')


@pytest.mark.parametrize(
    ('names', 'text'),
    [
        (['1.png'], 'No folder is in it'),
        (['ant/1.png'], 'It has one class folder alone'),
        (['ant/1.png', 'bee/1.txt', 'cat/x'], 'There are no images in bee, cat'),
        (['train/ant/1.png', 'train/bee/1.png', 'val/cow/1.png'], 'not: cow'),
        (['train/ant/1.png', 'train/bee/1.png', 'val/x'], 'There are no images in it'),
        (['train/ant/1.png', 'val/ant/1.png', 'old/1.png'], 'Beside train and val'),
        (['ant/1.png', 'bee/1\n.png'], r"cannot hold the name 'bee/1\n.png'"),
    ],
)
def test_refusals_name_the_folder(names, text, tmp_path):
    root = write(tmp_path / 'data', *names)
    with pytest.raises(ValueError, match='`DATA`') as error:
        read_class_folders(root, 'DATA')
    assert text in str(error.value)
    assert str(root) in str(error.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match='There is no such folder'):
        read_class_folders(tmp_path / 'none', 'DATA')
    (tmp_path / 'images.zip').touch()
    with pytest.raises(FileNotFoundError, match='It is a file'):
        read_class_folders(tmp_path / 'images.zip', 'DATA')
