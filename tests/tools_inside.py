"""The tools' scripts, run in this process."""

import runpy
import sys

import torch
import torchvision
from mmpretrain.visualization import UniversalVisualizer
from tiny import CONFIGS

TOOLS = CONFIGS.parent / 'tools'


def run_tool(monkeypatch, name, *arguments):
    """Run ``tools/<name>`` as from the command line."""
    # mmengine names a visualizer by the second. A tool would get the one of the tool
    # before it, and write into that one's work dir.
    UniversalVisualizer._instance_dict.clear()
    tool = str(TOOLS / name)
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
    runpy.run_path(tool, run_name='__main__')


def torchvision_net(name, classes=1000):
    """Build a random net of torchvision with normalisation that is not the identity."""
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, weights=None, num_classes=classes)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)
    return net.eval()
