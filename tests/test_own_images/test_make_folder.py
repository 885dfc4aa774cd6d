"""What is written for a folder of images, and what is refused before training."""

import pytest
import torch
from mmengine.config import Config
from own_images import CLASSES, PREPROCESSOR, options, save_net, save_vit, write_images
from tiny import build
from torchvision.models import shufflenet_v2_x0_5

from cakd_mm.own_images.make_folder import make_folder
from cakd_mm.utils.checkpoint import model_weights, read_checkpoint


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('data') / "the user's images")


def names_in(file):
    return [line.rsplit(' ', 1)[0] for line in file.read_text().splitlines()]


def test_the_configs(root, tmp_path, capsys):
    out = tmp_path / 'out'
    (root / 'grey' / 'notes.txt').write_text('')
    folder = make_folder(out, options(root, method='dkd', seed=3))
    printed = capsys.readouterr().out
    assert printed.splitlines() == [
        f'{root}: 36 images of 3 classes: {", ".join(CLASSES)}.',
        'Left out, because they are no images of a class: 1 .txt.',
    ]
    assert [x.name for x in tmp_path.iterdir()] == ['out']
    assert sorted(x.name for x in out.iterdir()) == [
        *('alone.py', 'data.py', 'distill.json', 'schedule.py', 'student.py'),
        *('teacher.py', 'train.txt', 'val.txt'),
    ]
    cfg = Config.fromfile(out / 'student.py')
    train, val = (cfg[f'{part}_dataloader'] for part in ('train', 'val'))
    assert train.dataset.data_root == str(root)
    assert train.dataset.metainfo.classes == list(CLASSES)
    assert (train.batch_size, train.num_workers) == (8, 0)
    assert train.dataset.pipeline[1].scale == 32
    assert names_in(out / 'train.txt') == sorted(names_in(out / 'train.txt'))
    lists = [names_in(out / name) for name in ('train.txt', 'val.txt')]
    assert [len(names) for names in lists] == [30, 6]
    assert not set(lists[0]) & set(lists[1])
    assert val.dataset.ann_file == str(out / 'val.txt')
    assert cfg.train_cfg.max_epochs == 30
    assert cfg.randomness.seed == 3
    assert list(cfg.model.distiller.distill_losses) == ['loss_dkd']
    assert 'loss_dkd.update(\n    tau=4.0' in (out / 'student.py').read_text()
    assert cfg.model.teacher_ckpt == str(out / 'teacher' / 'epoch_30.pth')
    assert cfg.optim_wrapper.optimizer == dict(
        type='SGD', lr=0.0063, momentum=0.9, weight_decay=5e-4
    )
    teacher = Config.fromfile(out / 'teacher.py')
    assert teacher.model.head.num_classes == 3
    assert teacher.get('load_from') is None
    assert folder.scored_images() == 6


def test_epochs_are_changed_in_one_place(root, tmp_path):
    make_folder(tmp_path / 'out {0}', options(root))
    schedule = tmp_path / 'out {0}' / 'schedule.py'
    assert schedule.read_text().count('30') == 1
    schedule.write_text(schedule.read_text().replace('30', '5'))
    student = Config.fromfile(tmp_path / 'out {0}' / 'student.py')
    assert student.model.teacher_ckpt == str(schedule.parent / 'teacher/epoch_5.pth')


def test_a_given_teacher_is_written_with_its_classes(root, tmp_path):
    file = save_net(tmp_path / 'own.pth', 4, ('red', *CLASSES), cfg=PREPROCESSOR)
    make_folder(tmp_path / 'out', options(root, teacher_ckpt=file))
    model = Config.fromfile(tmp_path / 'out' / 'student.py').model
    assert model.teacher_ckpt == file
    assert 'teacher_from' not in model
    assert model.teacher_classes == list(CLASSES)
    teacher = Config.fromfile(tmp_path / 'out' / 'teacher.py')
    assert teacher.model.head.num_classes == 4
    seen = teacher.data_preprocessor
    assert (seen.mean, seen.std, seen.to_rgb) == ([1, 2, 3], [4, 5, 6], False)


def test_a_teacher_begins_with_weights_that_know_other_classes(root, tmp_path):
    file = save_net(tmp_path / 'published.pth', 5)
    make_folder(tmp_path / 'out', options(root, teacher_ckpt=file))
    teacher = Config.fromfile(tmp_path / 'out' / 'teacher.py')
    assert teacher.load_from == file
    assert teacher.model.head.num_classes == 3
    assert teacher.optim_wrapper.optimizer.lr == 0.0013  # a fifth
    model = Config.fromfile(tmp_path / 'out' / 'student.py').model
    assert model.teacher_ckpt == str(tmp_path / 'out' / 'teacher' / 'epoch_30.pth')


def test_a_teacher_that_takes_images_of_one_size(root, tmp_path, capsys):
    pytest.importorskip('timm')
    asked = options(root, teacher='timm:vit_tiny_patch16_224', method='cakd_feature')
    make_folder(tmp_path / 'out', asked)
    printed = 'timm:vit_tiny_patch16_224 takes no images of 32 pixels, and gets 224.'
    assert printed in capsys.readouterr().out
    student = Config.fromfile(tmp_path / 'out' / 'student.py')
    assert student.model.teacher.data_preprocessor == dict(size=224)
    teacher = Config.fromfile(tmp_path / 'out' / 'teacher.py')
    assert teacher.model.num_classes == 3
    for part in ('train', 'val', 'test'):
        pipelines = [
            cfg[f'{part}_dataloader'].dataset.pipeline for cfg in (student, teacher)
        ]
        resize = dict(type='Resize', scale=(224, 224))
        assert pipelines[1] == [*pipelines[0][:-1], resize, pipelines[0][-1]]


@pytest.mark.parametrize('method', ['crd', 'kd'])
def test_a_teacher_without_a_classifier(method, root, tmp_path, capsys):
    name, file = 'torchvision:shufflenet_v2_x0_5', tmp_path / 'published.pth'
    weights = shufflenet_v2_x0_5().state_dict()
    kept = {name: x for name, x in weights.items() if not name.startswith('fc.')}
    torch.save(kept, file)
    out = tmp_path / 'out'
    asked = options(root, teacher=name, teacher_ckpt=str(file), method=method)
    folder = make_folder(out, asked)
    model = Config.fromfile(out / 'student.py').model
    teacher = Config.fromfile(out / 'teacher.py')
    printed = capsys.readouterr().out
    if method == 'crd':
        assert f'{file} has no classifier; its features teach' in printed
        assert (model.teacher_ckpt, teacher.model.num_classes) == (str(file), 0)
        assert folder.parts == dict(teacher=dict(top1=None))  # nothing to score
        assert teacher.get('load_from') is None
    else:
        assert f'{file} has no classifier; training begins' in printed
        assert model.teacher_ckpt == str(out / 'teacher' / 'epoch_30.pth')
        assert teacher.model.num_classes == 3
        assert folder.parts == {}
        assert teacher.load_from == str(file)


@pytest.mark.parametrize('kind', ['torchvision', 'transformers'])
def test_a_student_begins_with_published_weights(kind, root, tmp_path):
    if kind == 'torchvision':
        name, file = 'torchvision:shufflenet_v2_x0_5', str(tmp_path / 'published.pth')
        published = shufflenet_v2_x0_5().state_dict()
        torch.save(published, file)
        first = 'conv1.0.weight'
    else:
        name, file = f'hf:{save_vit(tmp_path / "a net", ("one", "other"))}', None
        published = read_checkpoint(str(tmp_path / 'a net/model.safetensors'), '', '')
        first = 'vit.embeddings.patch_embeddings.projection.weight'
    folder = make_folder(
        tmp_path / 'out', options(root, student=name, student_ckpt=file, teacher=name)
    )
    assert folder.options['student'] == name
    cfg = Config.fromfile(tmp_path / 'out' / 'alone.py')
    net = build(cfg.model)
    net.init_weights()
    weights = net.state_dict()
    assert torch.equal(weights[first], published[first])
    assert len(weights[[*weights][-1]]) == 3
    # So does the student with its teacher.
    student = Config.fromfile(tmp_path / 'out' / 'student.py')
    assert student.model.architecture == dict(cfg_path=str(tmp_path / 'out/alone.py'))
    rates = {'torchvision': 0.0013, 'transformers': 1.3e-05}
    assert cfg.optim_wrapper.optimizer.lr == rates[kind]
    teacher = Config.fromfile(tmp_path / 'out' / 'teacher.py')
    if kind == 'torchvision':
        assert teacher.get('load_from') is None
    else:
        begins = read_checkpoint(teacher.load_from, '', '')
        assert torch.equal(model_weights(begins)[first], published[first])


@pytest.mark.parametrize('method', ['ctkd', 'crd'])
def test_a_method_that_asks_for_epoch_or_images(method, root, tmp_path):
    make_folder(tmp_path / 'out', options(root, method=method))
    cfg = Config.fromfile(tmp_path / 'out' / 'student.py')
    assert list(cfg.model.distiller.distill_losses) == [f'loss_{method}']


BARLOW = """
model = dict(
    type='BarlowTwins',
    backbone=dict(type='CIFARResNet', depth=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LatentCrossCorrelationHead',
        in_channels=8,
        loss=dict(type='CrossCorrelationLoss'),
    ),
)
"""
BARE = """
model = dict(type='ImageClassifier', backbone=dict(type='CIFARResNet', depth=8))
"""
LENET = """
model = dict(
    type='ImageClassifier',
    backbone=dict(type='LeNet5', num_classes=3),
    head=dict(type='ClsHead'),
)
"""


@pytest.mark.parametrize(
    ('given', 'text'),
    [
        (dict(method='dkdd'), "`--method` = 'dkdd'"),
        (dict(student='tim:resnet18'), 'not known'),
        (dict(student=LENET, size=40), 'It does not take images of 40 pixels'),
        (dict(teacher=BARLOW), 'It is no classifier, but a BarlowTwins'),
        (dict(student=BARE), '`--student` = '),
        (dict(student=BARE), 'It has no classifier, so it cannot be trained'),
        (dict(teacher=BARE), 'give the weights as --teacher-ckpt'),
        (dict(method='deit'), "`--method` = 'deit': It does not go with these nets"),
        (dict(method='norm'), "`--method` = 'norm': It does not go with these nets"),
        (dict(method='mlkd'), 'It compares 2 views of each image, and data.py makes'),
        (dict(method='ldrld'), 'top_classes is 7, but there are 3 classes'),
    ],
)
def test_what_cannot_work_leaves_nothing(given, text, root, tmp_path):
    given = dict(given)
    for net in ('student', 'teacher'):
        if 'model' in given.get(net, ''):
            (tmp_path / 'net.py').write_text(given[net])
            given[net] = str(tmp_path / 'net.py')
    with pytest.raises(Exception) as error:
        make_folder(tmp_path / 'results' / 'out', options(root, **given))
    assert text in str(error.value)
    assert not list(tmp_path.glob('results/*'))


def test_images_that_cannot_be_read_are_named(tmp_path):
    root = write_images(tmp_path / 'data', each=2)
    (root / 'grey' / 'broken.jpg').write_text('no image')
    with pytest.raises(ValueError, match='`DATA`') as error:
        make_folder(tmp_path / 'out', options(root))
    assert '1 of its images cannot be read: grey/broken.jpg' in str(error.value)


def test_results_do_not_lie_among_the_images(root):
    with pytest.raises(ValueError, match='lies in the folder of the images'):
        make_folder(root / 'out', options(root))
