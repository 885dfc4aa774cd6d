"""A small classifier of every kind that taps are known for."""

import torch
from mmpretrain import get_model
from tiny import image_classifier
from torch import nn

from cakd_mm.utils.repdistiller_weights import ARCHS


def classifier(arch):
    torch.manual_seed(0)
    known = ARCHS[arch]
    return spread(image_classifier(known.backbone, known.width, classes=7))


def of_mmpretrain(name):
    torch.manual_seed(0)
    return spread(get_model(name))


def spread(model):
    """Statistics and weights of normalisation that are not the identity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            if module.track_running_stats:
                module.running_mean.normal_(std=0.3)
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
    return model


NETS = {
    **{arch: lambda arch=arch: classifier(arch) for arch in ('resnet8', 'resnet8x4')},
    **{arch: lambda arch=arch: classifier(arch) for arch in ('wrn16-1', 'mobilenetv1')},
    'shufflenetv1': lambda: classifier('shufflenetv1'),
    'shufflenetv2': lambda: classifier('shufflenetv2'),
    'resnet18': lambda: of_mmpretrain('resnet18_8xb32_in1k'),
    'resnet50': lambda: of_mmpretrain('resnet50_8xb32_in1k'),
    'mobilenetv2': lambda: of_mmpretrain('mobilenet-v2_8xb32_in1k'),
}
