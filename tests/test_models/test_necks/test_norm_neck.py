"""NORMNeck: what it computes, what a student becomes that is extracted, mistakes."""

import pytest
import torch
from mmengine.config import Config
from mmpretrain import get_model
from mmpretrain.models import (
    LinearClsHead,
    MultiLabelLinearClsHead,
    StackedLinearClsHead,
)
from mmpretrain.structures import DataSample
from tiny import CONFIGS, algorithm, build, digits_config
from torch.testing import assert_close

from cakd_mm.models.necks import NORMNeck
from cakd_mm.utils import extract

WIDTH, TEACHER, SEGMENTS, CLASSES = 5, 3, 4, 7
LEAF = 'norm/norm_r20_r8_digits.py'


def moved(net):
    """Give a net's normalisation other numbers than those it begins with."""
    torch.manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for x in (layer.weight.data, layer.running_var):
                x.uniform_(0.5, 2)
            for x in (layer.bias.data, layer.running_mean):
                x.normal_()
    return net


@pytest.fixture
def neck():
    return moved(NORMNeck(WIDTH, TEACHER, SEGMENTS)).double().eval()


@pytest.fixture
def feature():
    draw = torch.Generator().manual_seed(1)
    return torch.randn(2, WIDTH, 3, 4, generator=draw).double()


def slow_step(step, pixel):
    """A 1x1 convolution and its normalisation at one position, channel by channel."""
    conv, norm = step.conv, step.norm
    out = []
    for channel in range(len(conv.weight)):
        total = sum(conv.weight[channel, i, 0, 0] * x for i, x in enumerate(pixel))
        scaled = (total - norm.running_mean[channel]) / (
            norm.running_var[channel] + norm.eps
        ) ** 0.5
        out.append(norm.weight[channel] * scaled + norm.bias[channel])
    return out


def test_against_the_slow_loop(neck, feature):
    wide = neck.expand(feature)
    assert wide.shape == (2, SEGMENTS * TEACHER, 3, 4)
    want = torch.zeros(2, WIDTH).double()
    for image, rows in enumerate(feature):
        for pixel in rows.flatten(1).T:
            expanded = slow_step(neck.expand, pixel)
            back = torch.stack(slow_step(neck.contract, expanded))
            want[image] += (pixel + back) / 12
    (got,) = neck((feature,))
    assert_close(got, want.detach(), check_stride=False)
    assert_close(neck(feature), got)


def test_the_segments_are_the_widened_map_in_parts(neck, feature):
    kept = []
    neck.segments.register_forward_hook(lambda *args: kept.append(args[-1]))
    neck(feature)
    wide = neck.expand(feature).split(TEACHER, 1)
    assert len(wide) == SEGMENTS
    assert_close(kept[0], torch.stack(wide, 1))


def test_earlier_maps_are_pooled_as_they_are(neck, feature):
    first, last = neck((feature + 1, feature))
    assert_close(first, (feature + 1).mean((2, 3)))
    assert_close(last, neck(feature))


def test_the_classifier_teaches_the_whole_transform(neck, feature):
    neck.train()
    # The mean of a batch's normalised values is constant, but not that of an image.
    neck(feature)[0].square().sum().backward()
    assert all(x.grad.abs().sum() > 0 for x in neck.parameters())


@pytest.mark.parametrize('kind', [LinearClsHead, MultiLabelLinearClsHead])
def test_the_head_takes_the_neck_in(neck, feature, kind):
    head = kind(num_classes=CLASSES, in_channels=WIDTH).double()
    torch.nn.init.normal_(head.fc.bias)
    before = {name: x.clone() for name, x in head.state_dict().items()}
    want = head(neck((feature,)))
    cfg, weights = neck.folded_into(head)
    assert cfg == dict(type='GlobalAveragePooling')
    assert_close(head.state_dict(), before)
    head.load_state_dict(weights)
    assert_close(head((feature.mean((2, 3)),)), want)


def test_another_head_keeps_the_neck(neck):
    head = StackedLinearClsHead(CLASSES, WIDTH, mid_channels=[6])
    assert neck.folded_into(head) is None
    assert neck.folded_into(None) is None


@pytest.mark.parametrize('name', ['in_channels', 'teacher_channels', 'segments'])
@pytest.mark.parametrize('value', [0, -2, 2.5, None, True])
def test_no_number_of_channels(name, value):
    numbers = dict(in_channels=4, teacher_channels=4, segments=2) | {name: value}
    with pytest.raises(ValueError, match=rf'NORMNeck\.{name}` = {value}'):
        NORMNeck(**numbers)


# The student that is extracted


def test_another_width_of_the_last_map_is_named(neck):
    width = neck.expand.conv.in_channels
    text = (
        rf'in_channels` = {width}: .* has {width + 3}\. Write in_channels={width + 3}'
    )
    with pytest.raises(ValueError, match=text):
        neck(torch.rand(2, width + 3, 2, 2))


def test_the_plain_student_has_no_neck_of_ours(tmp_path):
    cfg = Config.fromfile(CONFIGS / LEAF)
    trained = moved(build(cfg.model.architecture)).eval()
    path = extract.save_student(cfg, trained.state_dict(), tmp_path / 'student.pth')
    plain = Config.fromfile(path.with_suffix('.py'))
    assert plain.model.neck == dict(type='GlobalAveragePooling')
    saved = torch.load(path)['state_dict']
    assert not any(name.startswith('neck.') for name in saved)
    found = get_model(plain, pretrained=str(path)).eval()
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        want, got = (net(images, mode='tensor') for net in (trained, found))
    assert want.std() > 0.1
    assert_close(got, want, rtol=1e-4, atol=1e-4)
    # The config that scores a checkpoint of the run is that of the trained student.
    assert extract.plain_config(cfg).model.neck.type == 'NORMNeck'


def test_a_neck_that_goes_wrong_is_noticed(tmp_path, monkeypatch):
    cfg = Config.fromfile(CONFIGS / LEAF)
    weights = moved(build(cfg.model.architecture)).state_dict()
    folded_into = NORMNeck.folded_into

    def wrong(self, head):
        plain, own = folded_into(self, head)
        return plain, {**own, 'fc.bias': own['fc.bias'] + 1}

    monkeypatch.setattr(NORMNeck, 'folded_into', wrong)
    with pytest.raises(RuntimeError, match='does not give the outputs'):
        extract.save_student(cfg, weights, tmp_path / 'student.pth')


def test_a_head_that_is_not_linear_keeps_it_in_the_student(tmp_path):
    cfg = Config.fromfile(CONFIGS / LEAF)
    head = cfg.model.architecture.head
    head.update(type='StackedLinearClsHead', mid_channels=[6])
    weights = moved(build(cfg.model.architecture)).state_dict()
    path = extract.save_student(cfg, weights, tmp_path / 'student.pth')
    plain = Config.fromfile(path.with_suffix('.py'))
    assert plain.model.neck.type == 'NORMNeck'
    assert 'neck.expand.conv.weight' in torch.load(path)['state_dict']


def test_a_training_step_compares_each_segment_with_the_teachers_map():
    cfg = digits_config(
        LEAF, model__allow_random_teacher=True, model__teacher_ckpt=None
    )
    model = algorithm(cfg)
    kept = {}
    model.student.neck.segments.register_forward_hook(
        lambda module, inputs, output: kept.update(student=output)
    )
    model.teacher.backbone.register_forward_hook(
        lambda module, inputs, output: kept.update(teacher=output[-1])
    )
    model.distiller.distill_losses.loss_norm.set_epoch(1)
    images = torch.randn(4, 3, 16, 16)
    samples = [DataSample().set_gt_label(label) for label in range(4)]
    losses = model.loss(images, samples)
    assert kept['student'].shape[1:3] == (8, 64)
    gaps = kept['student'] - kept['teacher'].unsqueeze(1)
    want = 0.5 * sum(gap.square().mean() for gap in gaps.unbind(1))
    assert_close(losses['distill.loss_norm'], want)
    sum(x for name, x in losses.items() if 'loss' in name).backward()
    assert model.student.head.fc.weight.grad is not None
    assert model.student.neck.contract.conv.weight.grad.abs().sum() > 0
