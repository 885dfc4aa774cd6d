"""A net that takes images of one size alone, and does not tell which."""

import pytest
import torch
from mmpretrain.registry import MODELS
from tiny import algorithm, digits_config
from torch import nn

from cakd_mm.models.taps import dry_run, points_of

SINGLE = 'cakd/ablations/digits/digits_single_classifier.py'


@MODELS.register_module(force=True)
class OfTwentyPixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.positions = nn.Parameter(torch.ones(8, 10, 10))

    def forward(self, images):
        return (self.conv(images) + self.positions,)


@pytest.mark.parametrize('type_', ['Tap', 'ModuleOutputs'])
@pytest.mark.parametrize('side', ['architecture', 'teacher'])
def test_the_feature_and_the_classifier_have_their_usual_places(side, type_):
    cfg = digits_config(SINGLE)
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    cfg.model[side].backbone = dict(type='OfTwentyPixels')
    cfg.model[side].head.in_channels = 8
    if type_ == 'ModuleOutputs':
        for recorders in ('student_recorders', 'teacher_recorders'):
            neck = dict(type=type_, source='neck')
            cfg.model.distiller[recorders].feature = neck
    model = algorithm(cfg)
    net = getattr(model, side)
    assert dry_run(net).failure
    assert points_of(net)['classifier'].module == 'head.fc'
    linear = model.distiller.connectors['feature'].linear
    widths = (8, 64) if side == 'architecture' else (64, 8)
    assert (linear.in_features, linear.out_features) == widths
    recorders = model.distiller.student_recorders
    if side == 'teacher':
        recorders = model.distiller.teacher_recorders
    images = torch.randn(2, 3, 20, 20)
    with recorders:
        net.eval()(images, mode='tensor')
    feature = recorders.get_recorder('feature').get_record_data(data_idx=0)
    assert torch.equal(feature, net.backbone(images)[0].mean((2, 3)))


def test_what_is_not_found_says_why():
    cfg = digits_config(SINGLE)
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    cfg.model.architecture.backbone = dict(type='OfTwentyPixels')
    cfg.model.distiller.student_recorders.feature.source = 'stage2'
    with pytest.raises(ValueError, match='could not be run on random images: The size'):
        algorithm(cfg)
