"""Nets of other packages, with their weights and their sizes of images."""

import shutil

import pytest
import torch
from own_images import CLASSES, save_vit

from cakd_mm.own_images.tried_net import tried
from cakd_mm.utils.net_names import named_net

KEY = '--teacher'
VIT = 'timm:vit_tiny_patch16_224'


def try_name(name, classes=CLASSES, file=None, sizes=(32,), is_taught=False):
    return tried(named_net(str(name), KEY), KEY, file, classes, sizes, is_taught)


def test_a_net_that_takes_images_of_one_size(capsys):
    pytest.importorskip('timm')
    with pytest.raises(ValueError, match='Write another --size, 224 say'):
        try_name(VIT)
    vit = try_name(VIT, sizes=(32, None, 224))
    vit.introduce()
    assert vit.size == 224
    assert f'{VIT} takes no images of 32 pixels' in capsys.readouterr().out
    found = try_name('timm:resnet18', sizes=(40, 224))
    assert (found.size, found.has_batch_norm) == (40, True)
    assert (found.classes, found.net.num_classes) == (3, 3)
    # It begins at random, so that any images will do.
    assert found.preprocessor == {}


def test_weights_without_a_classifier(tmp_path, capsys):
    timm = pytest.importorskip('timm')
    published = timm.create_model(VIT.removeprefix('timm:'), num_classes=0)
    file = str(tmp_path / 'published.pth')
    torch.save(published.state_dict(), file)
    found = try_name(VIT, file=file, sizes=(224,))
    assert (found.weights.is_whole, found.weights.renamed) == (False, None)
    assert found.preprocessor['mean'] == [127.5] * 3
    found.introduce()
    printed = f'{VIT}: {file} has no classifier; training begins with it'
    assert printed in capsys.readouterr().out
    with pytest.raises(ValueError, match='`--teacher-ckpt`.* are not in it'):
        try_name('timm:vit_small_patch16_224', file=file, sizes=(224,))


def test_a_folder_knows_its_classes(tmp_path, capsys):
    name = f'hf:{save_vit(tmp_path / "a net", ("red", *CLASSES[::-1]))}'
    found = try_name(name)
    assert (found.classes, found.net.num_labels) == (4, 4)
    # The file of weights has no names, so that the numbers have to do.
    assert (found.weights.is_whole, found.weights.chosen) == (True, (3, 2, 1))
    found.introduce()
    assert 'Nothing says how its images were made' in capsys.readouterr().out
    student = try_name(name, is_taught=True)
    assert (student.classes, student.weights.is_whole) == (3, False)
    student.introduce()
    assert 'training begins with it' in capsys.readouterr().out
    # Another file than that of the folder may have other classes.
    copy = shutil.copy(tmp_path / 'a net/model.safetensors', tmp_path)
    assert not try_name(name, file=str(copy)).weights.is_whole


def test_weights_that_the_net_names_otherwise(tmp_path):
    folder = save_vit(tmp_path / 'net', ('one', 'other'))
    found = try_name(f'hf:{folder}')
    from safetensors.torch import load_file

    published = load_file(folder / 'model.safetensors')
    weights = found.weights.renamed
    if weights is None:  # Versions of transformers have names of their own.
        assert published.keys() >= {'vit.embeddings.cls_token'}
        return
    assert len(weights) == len(published) - 2
    name = 'vit.embeddings.position_embeddings'
    assert torch.equal(weights[name], published[name])
    assert not any(name.startswith('classifier') for name in weights)
    found.weights.save_renamed(tmp_path / 'begins.pth')
    saved = torch.load(tmp_path / 'begins.pth')
    assert saved['state_dict'].keys() == weights.keys()


def test_a_broken_folder(tmp_path):
    folder = save_vit(tmp_path / 'net', CLASSES)
    (folder / 'model.safetensors').write_bytes(b'no weights')
    with pytest.raises(ValueError, match='`--teacher` = .*give weights as --teacher-'):
        try_name(f'hf:{folder}')


@pytest.mark.parametrize(
    ('kind', 'count'),
    [
        ('Timm', 'num_classes'),
        ('HuggingFace', 'num_labels'),
        ('HuggingFaceConfig', 'num_classes'),
    ],
)
def test_a_config_that_names_a_net_alone(kind, count, tmp_path):
    pytest.importorskip('timm' if kind == 'Timm' else 'transformers')
    net = dict(type='TimmClassifier', model_name='resnet10t', pretrained=True)
    if kind != 'Timm':
        folder = str(save_vit(tmp_path / 'net', ('one', 'other')))
        net = dict(type=f'mmpretrain.{kind}Classifier', model_name=folder)
    (tmp_path / 'net.py').write_text(f'model = {net!r}')
    found = try_name(tmp_path / 'net.py')
    assert found.classes == 3
    net.pop('pretrained', None)
    assert found.net == {**net, '_scope_': 'mmpretrain', count: 3}
