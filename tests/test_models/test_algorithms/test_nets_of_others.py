"""Nets of timm, Hugging Face and torchvision as student and as teacher."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain import get_model
from tiny import (
    CONFIGS,
    SMALL_TRANSFORMER,
    algorithm,
    build,
    digits_config,
    save_teacher,
)
from torch.testing import assert_close

from cakd_mm.datasets.label_batch import LabelBatch
from cakd_mm.models.algorithms.teacher import build_net
from cakd_mm.utils.extract import save_student, student_weights

VIT = dict(SMALL_TRANSFORMER, model_type='vit')
# As a person writes them: the type says whose they are.
NETS = {
    'timm': dict(
        type='mmpretrain.TimmClassifier', model_name='test_resnet', num_classes=10
    ),
    'torchvision': dict(
        type='mmpretrain.TorchvisionClassifier',
        model_name='shufflenet_v2_x0_5',
        num_classes=10,
    ),
    'transformers': dict(
        type='mmpretrain.HuggingFaceConfigClassifier', config=VIT, num_classes=10
    ),
}


@pytest.fixture(params=NETS)
def net(request):
    package = pytest.importorskip(request.param)
    if not getattr(package, 'is_torch_available', lambda: True)():
        pytest.skip('this transformers needs a newer PyTorch')
    return copy.deepcopy(NETS[request.param])


def config(tmp_path, **nets):
    """Write and read a leaf of CAKD on logits with other nets."""
    bases = ['tasks/r20_r8_digits.py', 'methods/cakd_logit.py']
    bases = [str(CONFIGS / '_base_' / base) for base in bases]
    lines = [f'_base_ = {bases}', 'model = dict(distiller=_base_.distiller)']
    lines += [f'model[{k!r}] = dict(_delete_=True, **{v!r})' for k, v in nets.items()]
    (tmp_path / 'leaf.py').write_text('\n'.join(lines) + '\n')
    return digits_config(str(tmp_path / 'leaf.py'))


def batch(size=4):
    torch.manual_seed(0)
    labels = LabelBatch(gt_label=torch.arange(size), sample_idx=np.arange(size))
    return torch.randn(size, 3, 16, 16), labels


def test_a_student_is_trained_resumed_and_extracted(tmp_path, net):
    cfg = config(tmp_path, architecture=net)
    cfg.model.teacher_ckpt = str(save_teacher(tmp_path / 'teacher.pth'))
    model = algorithm(cfg)
    images, labels = batch()
    # Resident data give the labels at once, other data a sample for each.
    other, state = copy.deepcopy(model), torch.get_rng_state()
    losses = model.loss(images, labels)
    assert '_samples' not in vars(labels)  # No object was made for each image.
    torch.set_rng_state(state)
    assert_close(losses, other.loss(images, list(labels)))
    assert losses.keys() == {'student.loss', 'distill.loss_cakd'}
    sum(losses.values()).backward()
    for weight in model.student.parameters():
        if weight.grad is not None:
            weight.data -= 1e-4 * weight.grad.clamp(-1, 1)

    content = dict(state_dict=model.state_dict())
    weights = student_weights(content)
    assert weights.keys() == model.student.state_dict().keys()
    resumed = algorithm(cfg)
    resumed.load_state_dict(content['state_dict'])
    images = torch.randn(2, 3, 16, 16)
    model.eval(), resumed.eval()
    with torch.no_grad():
        wanted = model.student(images)
        assert torch.equal(resumed.student(images), wanted)
        file = save_student(cfg, weights, tmp_path / 'student.pth')
        plain = Config.fromfile(file.with_suffix('.py'))
        assert torch.equal(get_model(plain, str(file)).eval()(images), wanted)

    cfg.model.student_ckpt = str(file)
    began = algorithm(cfg).eval()
    with torch.no_grad():
        assert torch.equal(began.student(images), wanted)


def test_a_teacher_has_the_weights_of_its_file(tmp_path, net):
    torch.manual_seed(7)
    genuine = build(dict(net)).eval()
    torch.save(genuine.state_dict(), tmp_path / 'teacher.pth')
    cfg = config(tmp_path, teacher=net)
    cfg.model.teacher_ckpt = str(tmp_path / 'teacher.pth')
    model = algorithm(cfg)
    images, labels = batch()
    model.loss(images, labels)
    [recorded] = model.distiller.teacher_recorders.recorders['logits'].data_buffer
    with torch.no_grad():
        assert torch.equal(recorded, genuine(images))


@pytest.mark.parametrize('calculated', [True, False])
def test_labels_are_of_no_use_without_a_classifier(tmp_path, calculated):
    student = {**NETS['torchvision'], 'num_classes': 0}
    cfg = config(tmp_path, architecture=student)
    cfg.model.teacher_ckpt = str(save_teacher(tmp_path / 'teacher.pth'))
    cfg.model.calculate_student_loss = calculated
    text = r'architecture\.num_classes` = 0: A net without a classifier'
    if not calculated:
        text = 'has no classifier'  # for the method, which is between logits
    with pytest.raises(ValueError, match=text):
        algorithm(cfg)


def test_a_backbone_that_counts_no_classes_may_have_a_head(tmp_path):
    student = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='LeNet5', num_classes=0),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=120),
    )
    cfg = config(tmp_path, architecture=student)
    cfg.model.teacher_ckpt = str(save_teacher(tmp_path / 'teacher.pth'))
    assert algorithm(cfg).student.backbone.num_classes == 0


@pytest.mark.parametrize(
    ('options', 'key', 'error'),
    [
        (dict(num_clases=3), 'num_clases', TypeError),
        (dict(weights='DEFAULT'), 'weights', ValueError),
        (dict(model_name='resnet1'), 'model_name', ValueError),
    ],
)
def test_mistakes_name_their_key(options, key, error):
    with pytest.raises(error, match=rf'`model\.teacher\.{key}` = '):
        build_net({**NETS['torchvision'], **options}, 'model.teacher')


def test_what_torchvision_takes_is_passed_on():
    options = {**NETS['torchvision'], 'model_name': 'mobilenet_v3_small'}
    net = build_net(dict(**options, dropout=0.75), 'model.teacher')
    assert net.model.classifier[2].p == 0.75
