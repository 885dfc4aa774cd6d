"""Benchmarks' own loops keep what they make where the model is."""

import pytest
import torch
from fake_gpu import DEVICE, fake_gpu
from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS

import cakd_mm  # noqa: F401  # isort: split


@pytest.mark.usefixtures('benchmarks')
def test_a_hand_written_step_takes_labels_of_the_host():
    from steps import hand_written, null_net, ours

    model = ours(null_net(), null_net(), batch_size=4).model
    with fake_gpu() as gpu, DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(model).to(DEVICE)
        before = model.student.head.fc.weight.detach().clone()
        step = hand_written(model)
        images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8).to(DEVICE)
        with gpu.listening() as ledger:
            step(images, torch.arange(4))
        moved = (model.student.head.fc.weight - before).abs().max().item()
    assert ledger.waits == []
    assert moved > 1e-3
