"""A memo gives back what was kept, and a run with one is the run without."""

import uuid

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_nets import NETS
from mmengine.hooks import Hook
from mmengine.registry import build_from_cfg
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS
from mmrazor.models.task_modules import RecorderManager
from tiny import digits_config, distill_config, save_teacher

from cakd_mm.datasets.label_batch import LabelBatch
from cakd_mm.models.runtime import TeacherRuntime
from cakd_mm.models.runtime.memo import TeacherMemo

CLASSES = 7


def logits_of(views):
    """Return rows that tell which view they are of."""
    return views[:, None] + torch.arange(CLASSES) / 10


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=9), max_size=12),
    st.integers(0, 30),
)
def test_what_is_known_is_right_and_room_is_kept(batches, rows):
    memo = TeacherMemo(rows * CLASSES * 4 / 2**30)
    seen = set()
    for batch in batches:
        views = torch.tensor(batch)
        places = memo.find(views)
        known = places >= 0
        assert {v for v, k in zip(batch, known.tolist(), strict=True) if k} <= seen
        if known.any():
            expected = logits_of(views[known])
            assert torch.equal(memo.recall(places[known]), expected)
        fresh = views[~known]
        full = memo._used == rows
        memo.keep(fresh, logits_of(fresh))
        seen |= set(fresh.tolist())
        if len(fresh) and not full and memo._used < rows:
            assert (memo.find(fresh) >= 0).all()
        assert memo._used <= rows


def samples(views):
    batch = LabelBatch(gt_label=torch.zeros(len(views), dtype=torch.int64))
    batch.view_idx = np.array(views)
    return batch


def runtime_of(net, memo_gb=0.01, **recorders):
    recorders = recorders or dict(head=dict(type='ModuleOutputs', source='head'))
    manager = RecorderManager(recorders)
    manager.initialize(net)
    return TeacherRuntime(compile=False, memo_gb=memo_gb), manager


def run(runtime, manager, net, inputs, batch):
    with manager:
        runtime(net, inputs, manager.recorders.values(), batch)
    return manager.get_recorder('head').get_record_data()


def test_only_unknown_views_are_run(monkeypatch):
    net = NETS['resnet8']().eval()
    runtime, manager = runtime_of(net)
    images = torch.randn(6, 3, 32, 32)
    with torch.no_grad():
        expected = net(images, mode='tensor')
    ran = []
    inner = TeacherRuntime._run
    monkeypatch.setattr(
        TeacherRuntime,
        '_run',
        lambda self, inputs: ran.append(len(inputs)) or inner(self, inputs),
    )
    for views, count in (
        ([0, 1, 2, 3], 4),
        ([3, 1, 0, 2], 0),
        ([4, 1, 5, 0], 2),
        ([5, 4], 0),
    ):
        ran.clear()
        found = run(runtime, manager, net, images[views], samples(views))
        torch.testing.assert_close(found, expected[views], atol=1e-5, rtol=1e-4)
        assert sum(ran[-1:]) == count or (count == 4 and ran == [4, 4])
    # Proves that the images are not looked at any more.
    found = run(runtime, manager, net, torch.zeros(2, 3, 32, 32), samples([5, 0]))
    torch.testing.assert_close(found, expected[[5, 0]], atol=1e-5, rtol=1e-4)


def test_another_teacher_forgets():
    net = NETS['resnet8']().eval()
    runtime, manager = runtime_of(net)
    images = torch.randn(2, 3, 32, 32)
    before = run(runtime, manager, net, images, samples([0, 1]))
    with torch.no_grad():
        net.head.fc.bias += 1
    runtime.reset()
    after = run(runtime, manager, net, images, samples([0, 1]))
    torch.testing.assert_close(after, before + 1)


@pytest.mark.parametrize(
    'recorder',
    [
        dict(type='Tap', source='stage1'),
        dict(type='ModuleInputs', source='head'),
        dict(type='ModuleOutputs', source='head.fc'),
    ],
)
def test_it_keeps_logits_alone(recorder):
    net = NETS['resnet8']().eval()
    runtime, manager = runtime_of(
        net, head=dict(type='ModuleOutputs', source='head'), other=recorder
    )
    with pytest.raises(ValueError, match=f'memo_gb.*{recorder["source"]}'):
        run(runtime, manager, net, torch.randn(2, 3, 32, 32), samples([0, 1]))


def test_a_foreign_hook_is_named():
    net = NETS['resnet8']().eval()
    runtime, manager = runtime_of(net)
    net.neck.register_forward_hook(lambda *call: None)
    with pytest.raises(ValueError, match='memo_gb.*neck'):
        run(runtime, manager, net, torch.randn(2, 3, 32, 32), samples([0, 1]))


def test_views_are_needed():
    net = NETS['resnet8']().eval()
    runtime, manager = runtime_of(net)
    with pytest.raises(ValueError, match='memo_gb.*train_cfg.resident=True'):
        run(runtime, manager, net, torch.randn(2, 3, 32, 32), [None, None])


@pytest.mark.parametrize('value', [-1, float('nan'), float('inf'), '2'])
def test_memory_is_a_number(value):
    with pytest.raises(ValueError, match='memo_gb'):
        TeacherRuntime(memo_gb=value)


def resident_digits(padding):
    cfg = digits_config('vanilla/resnet8_digits.py', images=40)
    dataset = cfg.train_dataloader.dataset
    dataset.pipeline[1].padding = padding
    dataset.pipeline.insert(2, dict(type='RandomFlip', prob=0.5))
    wrapped = dict(type='ResidentDataset', dataset=dataset, _scope_='mmpretrain')
    return build_from_cfg(wrapped, DATASETS)


def test_a_views_number_is_its_pixels():
    data = resident_digits(padding=1)
    pixels, images = {}, {}
    for epoch in range(12):
        data.epoch.fill_(epoch)
        batch = data.__getitems__(list(range(40)))
        labels = batch['data_samples']
        for view, place, image in zip(
            labels.view_idx, labels.sample_idx, batch['inputs'], strict=True
        ):
            known = pixels.setdefault(view, image)
            assert torch.equal(known, image)
            assert images.setdefault(view, place) == place
    assert len(pixels) > 40 * 5  # of 18 views each, most of twelve draws differ
    assert max(pixels) < 40 * 18


class Losses(Hook):
    def __init__(self):
        self.values = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.values.append(outputs['loss'].item())


def test_a_run_with_a_memo_is_the_run_without(tmp_path):
    save_teacher(tmp_path / 'teacher.pth')
    losses = []
    for memo_gb in (0, 0.01):
        cfg = distill_config(tmp_path, images=64, epochs=12, val_cfg__type='ValLoop')
        cfg.train_cfg.resident = True
        cfg.train_cfg.val_interval = 100
        cfg.train_dataloader.dataset.pipeline[1].padding = 1
        cfg.optim_wrapper.optimizer.lr = 0.001
        cfg.model.teacher_runtime = dict(compile=False, memo_gb=memo_gb)
        cfg.default_hooks.checkpoint.interval = 100
        cfg.update(
            work_dir=str(tmp_path / f'run{memo_gb}'),
            experiment_name=uuid.uuid4().hex,
            launcher='none',
        )
        runner, hook = Runner.from_cfg(cfg), Losses()
        runner.register_hook(hook)
        runner.train()
        losses.append(hook.values)
    memo = runner.model.teacher_runtime._memo
    assert memo._used < 64 * 9 * 2  # each view once
    assert memo._used < 64 * 12 * 0.9  # some came again
    assert len(losses[0]) == 24
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
