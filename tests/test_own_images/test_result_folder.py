"""With what a folder of results goes on, and what it refuses."""

import json

import pytest
from own_images import options

from cakd_mm.own_images.result_folder import ResultFolder


@pytest.fixture
def root(tmp_path):
    (tmp_path / 'data' / 'grey').mkdir(parents=True)
    (tmp_path / 'data' / 'grey' / '0.png').touch()
    return tmp_path / 'data'


def test_a_folder_of_something_else(root, tmp_path):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'thesis.tex').write_text('')
    with pytest.raises(ValueError, match='has no distill.json'):
        ResultFolder.open(tmp_path / 'full', options(root))
    assert ResultFolder.open(tmp_path / 'new', options(root)) is None


def test_going_on_needs_the_same_options_images_and_place(root, tmp_path):
    asked = options(root, epochs=2)
    folder = ResultFolder(tmp_path, {'teacher': dict(top1=1.0)}, asked.as_record())
    folder.save()
    found = ResultFolder.open(tmp_path, asked)
    assert found is not None
    assert found.parts == {'teacher': dict(top1=1.0)}
    with pytest.raises(ValueError, match='`--epochs` = 3: .* Write --epochs 2'):
        ResultFolder.open(tmp_path, options(root, epochs=3))
    with pytest.raises(ValueError, match='Leave --size out'):
        ResultFolder.open(tmp_path, options(root, epochs=2, size=64))
    (tmp_path / 'train.txt').write_text('grey/0.png 1\n')
    (tmp_path / 'val.txt').write_text('grey/a b.png 1\n')
    with pytest.raises(
        FileNotFoundError, match=r'1 of its images are gone: grey/a b\.'
    ):
        found.require_images()
    record = json.loads((tmp_path / 'distill.json').read_text())
    (tmp_path / 'distill.json').write_text(json.dumps(record | dict(path='/old')))
    with pytest.raises(ValueError, match='It was made as /old'):
        ResultFolder.open(tmp_path, asked)
    (tmp_path / 'distill.json').write_text('[1]')
    with pytest.raises(ValueError, match='It cannot be read'):
        ResultFolder.open(tmp_path, asked)
