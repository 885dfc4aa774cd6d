"""Batches come to a GPU, and scores from it, with as few waits as there can be."""

import copy
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from fake_gpu import DEVICE, fake_gpu
from mmengine.device import utils as mmengine_device
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample, MultiTaskDataSample
from tiny import digits_config, distill_config

from cakd_mm.datasets.batch_ops import windows
from cakd_mm.datasets.label_batch import LabelBatch
from cakd_mm.datasets.sample_labels import send_labels
from cakd_mm.engine.hooks import LabelRangeHook, SampleIndexHook, UnlabelledHook
from cakd_mm.models.data_preprocessors import BatchPreprocessor
from cakd_mm.utils.transfer import send_together

COUNT, CLASSES = 6, 5
NOT_FREE = dict(non_blocking=False)
NORMAL = dict(mean=[122.5, 114.4, 101.6], std=[64.3, 62.4, 66.1], to_rgb=True)


def pictures(channels=3, size=(8, 7)):
    generator = torch.Generator().manual_seed(0)
    shape = (COUNT, channels, *size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def ordinary(images=None, label=lambda place: place % CLASSES):
    samples = [DataSample() for _ in range(COUNT)]
    for place, sample in enumerate(samples):
        sample.set_gt_label(label(place))
        sample.set_field(place, 'sample_idx', field_type='metainfo')
    return dict(inputs=pictures() if images is None else images, data_samples=samples)


def resident(channels=3):
    rows = pictures(channels).permute(0, 2, 3, 1).contiguous()
    labels = LabelBatch(gt_label=torch.arange(COUNT) % CLASSES)
    labels.sample_idx = np.arange(COUNT)
    return dict(inputs=rows.permute(0, 3, 1, 2), data_samples=labels)


def scored():
    batch = ordinary()
    for sample in batch['data_samples']:
        sample.set_gt_score(torch.rand(CLASSES))
    return batch


def unlabelled():
    return dict(inputs=pictures(), data_samples=[DataSample() for _ in range(COUNT)])


def multi_task():
    batch = ordinary()
    for place, sample in enumerate(batch['data_samples']):
        tasks = MultiTaskDataSample()
        tasks.set_field(sample, 'colour')
        tasks.set_field(DataSample().set_gt_label(place), 'shape')
        batch['data_samples'][place] = tasks
    return batch


def plain_config(tmp_path):
    return digits_config('vanilla/resnet8_digits.py')


def multi_label_config(tmp_path):
    cfg = plain_config(tmp_path)
    cfg.model.head = dict(
        type='MultiLabelLinearClsHead', in_channels=64, num_classes=10, thr=0.51
    )
    return cfg


def mixing(name, **options):
    return dict(
        NORMAL,
        num_classes=CLASSES,
        batch_augments=dict(augments=dict(type=name, alpha=1.0, **options)),
    )


def uneven():
    return [image[:, : 8 - i] for i, image in enumerate(pictures())]


def viewed(kind=lambda images: images):
    return ordinary([kind(images) for images in (pictures(), 255 - pictures())])


# Settings of the preprocessor, and the batch that it gets.
BATCHES = {
    'ordinary': (NORMAL, ordinary),
    'ordinary, no numbers': (dict(to_rgb=True), ordinary),
    'ordinary, grey': (
        dict(mean=[120.0], std=[60.0]),
        lambda: ordinary(pictures(channels=1)),
    ),
    'ordinary, padded': (dict(NORMAL, pad_size_divisor=4), ordinary),
    'image by image': (NORMAL, lambda: ordinary(list(pictures()))),
    'image by image, padded': (
        dict(NORMAL, pad_size_divisor=4, pad_value=3),
        lambda: ordinary(list(pictures())),
    ),
    'images of several sizes': (NORMAL, lambda: ordinary(uneven())),
    'several labels': (
        dict(NORMAL, to_onehot=True, num_classes=CLASSES),
        lambda: ordinary(label=lambda place: list(range(place % 4))),
    ),
    'scores': (NORMAL, scored),
    'no labels': (NORMAL, unlabelled),
    'no samples': (NORMAL, lambda: dict(inputs=pictures())),
    'several tasks': (NORMAL, multi_task),
    'one-hot': (dict(NORMAL, to_onehot=True, num_classes=CLASSES), ordinary),
    'mixup': (mixing('Mixup'), ordinary),
    'CutMix': (mixing('CutMix'), ordinary),
    'ResizeMix': (mixing('ResizeMix'), ordinary),
    'two views': (NORMAL, viewed),
    'two views, mixup': (mixing('Mixup'), viewed),
    'two views, image by image': (NORMAL, lambda: viewed(list)),
    'resident': (NORMAL, resident),
    'resident, grey': (dict(mean=[120.0], std=[60.0]), lambda: resident(1)),
    'resident, padded': (dict(NORMAL, pad_size_divisor=4), resident),
    'resident, mixup': (mixing('Mixup'), resident),
}


def plain(value):
    """Return a batch as nested lists and tensors of the host."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, (LabelBatch, list, tuple)):
        return [plain(each) for each in value]
    if hasattr(value, 'all_items'):
        return {name: plain(each) for name, each in value.all_items()}
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return value


def preprocessed(name, device, gpu):
    """Return a batch as the preprocessor makes it, and the waits for that."""
    settings, make = BATCHES[name]
    torch.manual_seed(0)
    np.random.seed(0)
    preprocessor = BatchPreprocessor(**copy.deepcopy(settings)).to(device)
    batch = make()
    with gpu.listening() as ledger:
        found = preprocessor(batch, True)
    assert found['inputs'].device == torch.device(device)
    if isinstance(batch.get('data_samples'), LabelBatch):  # which hooks look at
        assert batch['data_samples'].gt_label.device.type == 'cpu'
    return plain(found), ledger.waits


@pytest.mark.parametrize('name', BATCHES)
def test_a_batch_arrives_without_a_wait(name):
    with fake_gpu() as gpu:
        wanted, _ = preprocessed(name, 'cpu', gpu)
        found, waits = preprocessed(name, DEVICE, gpu)
    assert waits == []
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_batch_that_may_block_waits_as_mmpretrain_does():
    waits = {}
    for kind, more in ((ClsDataPreprocessor, {}), (BatchPreprocessor, NOT_FREE)):
        with fake_gpu() as gpu:
            preprocessor = kind(**NORMAL, **more).to(DEVICE)
            with gpu.listening() as ledger:
                preprocessor(ordinary(), True)
        waits[kind] = [wait.split(',')[0] for wait in ledger.waits]
    assert waits[BatchPreprocessor] == waits[ClsDataPreprocessor] != []


def test_only_what_is_elsewhere_is_sent():
    with fake_gpu() as gpu:
        there = torch.ones(2, device=DEVICE)
        others = [torch.arange(3), torch.zeros(1)]
        with gpu.listening() as ledger:
            found = send_together([there, *others], torch.device(DEVICE))
        assert found[0] is there
        assert {x.device for x in found} == {torch.device(DEVICE)}
        assert [x.cpu().tolist() for x in found[1:]] == [[0, 1, 2], [0]]
    assert ledger.waits == []


@pytest.mark.parametrize('fill', [(0,), (9,), (9, 8, 7)])
@pytest.mark.parametrize('padding', [(0, 0, 0, 0), (1, 2, 3, 0)])
def test_windows_are_cut_without_a_wait(fill, padding):
    images = pictures().permute(0, 2, 3, 1).contiguous()
    places, corner = np.array([4, 0, 4, 1]), np.array([0, 1, 2, 0])
    for flips in (corner > 0, corner > 5):
        args = places, corner, corner[::-1], flips, (6, 5), padding, fill
        with fake_gpu() as gpu:
            there = images.to(DEVICE)
            with gpu.listening() as ledger:
                found = windows(there, *args)
            assert torch.equal(found.cpu(), windows(images, *args))
        assert ledger.waits == []


SINGLE = [
    dict(type='Accuracy', topk=(1, 3), thrs=(0.0, 0.09)),
    dict(type='SingleLabelMetric'),
]
SEVERAL = [dict(type='MultiLabelMetric', thr=0.51), dict(type='AveragePrecision')]
# Config, loop and metrics of a run, and how often each batch of it is scored.
VALIDATIONS = {
    'student': (distill_config, 'ValLoop', SINGLE, 1),
    'student and teacher': (distill_config, 'StudentTeacherValLoop', SINGLE, 2),
    'resident': (distill_config, 'ResidentValLoop', SINGLE, 1),
    'plain': (plain_config, 'ValLoop', SINGLE, 1),
    'plain, test': (plain_config, None, SINGLE, 1),
    'several labels': (multi_label_config, 'ValLoop', SEVERAL, 1),
}


@pytest.mark.parametrize('name', VALIDATIONS)
def test_scores_wait_once_a_batch(name, tmp_path, make_runner):
    config, loop, metrics, times = VALIDATIONS[name]
    cfg = config(tmp_path)
    cfg.val_dataloader.batch_size = cfg.test_dataloader.batch_size = 40
    cfg.val_cfg = dict(type=loop or 'ValLoop')
    cfg.val_evaluator = cfg.test_evaluator = metrics
    found = {}
    for device in ('cpu', DEVICE):
        with fake_gpu() as gpu, mock.patch.object(mmengine_device, 'DEVICE', device):
            runner = make_runner(cfg.copy(), device[:3])
            torch.manual_seed(0)
            runner.model.init_weights()
            score = runner.val if loop else runner.test
            score()  # Resident images are copied when the loop is built.
            with gpu.listening() as ledger:
                found[device] = score()
    assert len(ledger.waits) == 2 * times, ledger.waits
    assert found[DEVICE] == found['cpu'] != {}


def on_device(make):
    """Return a batch whose labels are on the device before the hooks see them."""
    batch = make()
    samples = batch['data_samples']
    if isinstance(samples, LabelBatch):
        batch['data_samples'] = samples.to(DEVICE)
    else:
        send_labels(samples, torch.device(DEVICE))
    return batch


@pytest.mark.parametrize('make', [ordinary, resident])
def test_hooks_read_no_label_of_the_device(make):
    loss = SimpleNamespace()
    indices = SampleIndexHook()
    indices._losses, indices._labels = [loss], np.full(COUNT, 3)
    head = SimpleNamespace(num_classes=2)
    model = SimpleNamespace(calculate_student_loss=False)
    model.student = SimpleNamespace(head=head)
    runner = SimpleNamespace(model=model)
    with fake_gpu() as gpu:
        batch = on_device(make)
        with gpu.listening() as ledger:
            for hook in (LabelRangeHook(), UnlabelledHook(), indices):
                hook.before_train_iter(runner, 0, batch)
    assert ledger.waits == []
    assert loss.indices.tolist() == list(range(COUNT))
