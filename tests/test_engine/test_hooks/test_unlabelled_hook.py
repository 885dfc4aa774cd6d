"""Images without labels, from the files to the extracted student."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import DATASETS
from mmpretrain import get_model
from mmpretrain.datasets import CustomDataset
from mmpretrain.structures import DataSample
from PIL import Image
from ranks import two_ranks
from tiny import algorithm, digits_config, save_teacher

from cakd_mm.engine.hooks import UnlabelledHook
from cakd_mm.models.algorithms.unlabelled import lacking, naming_labels
from cakd_mm.tasks import TASKS

KD = 'kd/kd_r20_r8_digits.py'
DIGITS = 'cakd/ablations/digits/digits'
IMAGES = 32
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=16, padding=2),
    dict(type='PackInputs'),
]


@DATASETS.register_module()
class PartlyLabelled(CustomDataset):
    """Every second image has the label 3."""

    def load_data_list(self):
        infos = super().load_data_list()
        for info in infos[self.first :: 2]:
            info['gt_label'] = 3
        return infos

    def __init__(self, first=0, **kwargs):
        self.first = first
        super().__init__(**kwargs)


@pytest.fixture
def start(tmp_path, make_runner):
    """Build a run on images without labels, with the teacher's loss alone."""
    (tmp_path / 'images').mkdir()
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = random.integers(0, 256, (16, 16, 3), 'uint8')
        Image.fromarray(pixels).save(tmp_path / 'images' / f'{number:02}.png')

    def build(name=KD, epochs=1, work_dir='run', dataset=None, **options):
        options.setdefault('model__calculate_student_loss', False)
        teacher = str(save_teacher(tmp_path / 'teacher.pth'))
        cfg = digits_config(name, epochs=epochs, model__teacher_ckpt=teacher, **options)
        cfg.train_dataloader.batch_size = 16
        cfg.train_dataloader.dataset = dict(
            type='CustomDataset',
            data_root=str(tmp_path / 'images'),
            with_label=False,
            pipeline=copy.deepcopy(PIPELINE),
        )
        cfg.train_dataloader.dataset.update(dataset or {})
        return make_runner(cfg, work_dir)

    return build


TRAINED = [
    KD,
    'reviewkd/reviewkd_r20_r8_digits.py',
    'ofd/ofd_r20_r8_digits.py',
    'dist/dist_r20_r8_digits.py',
    'ctkd/ctkd_r20_r8_digits.py',
    'cmkd/cmkd_r20_r8_digits.py',
    f'{DIGITS}_single_activation.py',
    f'{DIGITS}_single_kl.py',
]


@pytest.mark.parametrize('name', TRAINED)
def test_a_student_learns_without_labels(start, name):
    runner = start(name)
    before = runner.model.student.backbone.conv1.weight.clone()
    runner.train()
    assert not torch.equal(before, runner.model.student.backbone.conv1.weight)
    assert runner.message_hub.log_scalars['val/accuracy/top1'].current() >= 0
    assert Path(runner.work_dir, 'student.pth').is_file()


def test_it_is_resumed_and_extracted(start):
    whole = start(epochs=2)
    whole.train()
    weights = whole.model.student.state_dict()
    checkpoint = f'{whole.work_dir}/epoch_1.pth'
    resumed = start(epochs=2, work_dir='again', load_from=checkpoint, resume=True)
    resumed.train()
    again = resumed.model.student.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
    plain = get_model(
        f'{resumed.work_dir}/student.py', pretrained=f'{resumed.work_dir}/student.pth'
    )
    images = torch.randn(2, 3, 16, 16)
    expected = whole.model.student.eval()(images, mode='tensor')
    assert torch.equal(plain.eval()(images, mode='tensor'), expected)


NEEDING = {
    'dkd/dkd_r20_r8_digits.py': ('loss_dkd.gt_labels', 'DecoupledKDLoss'),
    'nkd/nkd_r20_r8_digits.py': ('loss_nkd.gt_labels', 'NKDLoss'),
    'cakd/demo_digits.py': ('loss_cakd.gt_labels', 'CAKDLogitLoss'),
    # Its scorer needs them.
    f'{DIGITS}_single_network.py': ('loss_feature.gt_labels', 'CAKDFeatureLoss'),
}


@pytest.mark.parametrize(('name', 'where'), NEEDING.items())
def test_a_loss_that_needs_labels_is_named(start, name, where):
    key, kind = where
    match = (
        f'`model.distiller.loss_forward_mappings.{key}` = .*: 16 of the 16 images of '
        rf'this batch have no label \(train_dataloader\), .* and {kind} is not given'
    )
    with pytest.raises(ValueError, match=match):
        start(name).train()


def test_a_loss_that_knows_every_image_says_that_it_needs_their_classes(start):
    match = (
        "`train_dataloader.dataset` = 'CustomDataset': It has images without labels, "
        'as CRDBankLoss needs.* with_label=True'
    )
    with pytest.raises(ValueError, match=match):
        start('crd/crd_r20_r8_digits.py').train()


LOSS_NEEDS = (
    '`model.calculate_student_loss` = True: {} of the 16 images of this batch have no '
    r"label \(train_dataloader.dataset\), and the student's own loss needs it. Write "
    'model.calculate_student_loss=False'
)


def test_the_students_own_loss_needs_labels(start):
    with pytest.raises(ValueError, match=LOSS_NEEDS.format(16)):
        start(model__calculate_student_loss=True).train()


@pytest.mark.parametrize('first', [0, 1])
def test_a_batch_that_mixes_both_is_trained_without_labels(start, first):
    """Whether its first image has a label makes no difference."""
    weights = []
    for dataset in ({}, dict(type='PartlyLabelled', first=first)):
        runner = start(dataset=dataset, work_dir=f'run-{len(weights)}')
        runner.train()
        weights.append(runner.model.student.state_dict())
    plain, mixed = weights
    assert all(torch.equal(value, mixed[name]) for name, value in plain.items())


@pytest.mark.parametrize('first', [0, 1])
def test_a_batch_that_mixes_both_has_no_loss_of_the_students_own(start, first):
    dataset = dict(type='PartlyLabelled', first=first)
    runner = start(dataset=dataset, model__calculate_student_loss=True)
    with pytest.raises(ValueError, match=LOSS_NEEDS.format(r'(?!16)\d+')):
        runner.train()


def test_images_without_labels_cannot_be_mixed(start):
    augments = dict(augments=[dict(type='Mixup', alpha=0.8)])
    runner = start(
        data_preprocessor__num_classes=10,
        data_preprocessor__to_onehot=True,
        data_preprocessor__batch_augments=augments,
    )
    match = '`data_preprocessor.batch_augments` = .*: 16 of the 16 images'
    with pytest.raises(ValueError, match=match):
        runner.train()


def test_a_teacher_cannot_compute_its_own_loss_without_labels(start):
    with pytest.raises(ValueError, match="`model.teacher_mode` = 'loss': 16 of the 16"):
        start(model__teacher_mode='loss').train()


# One batch


def samples(labelled):
    made = [DataSample() for _ in range(8)]
    return [s.set_gt_label(i) if labelled else s for i, s in enumerate(made)]


@pytest.mark.parametrize(
    'missing', [None, samples(False), [*samples(True)[:7], DataSample()]]
)
def test_the_distillation_losses_are_those_of_labelled_images(tmp_path, missing):
    teacher = str(save_teacher(tmp_path / 'teacher.pth'))
    cfg = digits_config(
        'ofd/ofd_r20_r8_digits.py',
        model__teacher_ckpt=teacher,
        model__calculate_student_loss=False,
    )
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    losses = [algorithm(cfg)(images, x, mode='loss') for x in (samples(True), missing)]
    first, second = losses
    assert [*first] == ['distill.loss_ofd']
    assert torch.equal(first['distill.loss_ofd'], second['distill.loss_ofd'])


def test_labels_come_back(tmp_path):
    """An argument that a batch lacks is there in the next."""
    teacher = str(save_teacher(tmp_path / 'teacher.pth'))
    cfg = digits_config(
        f'{DIGITS}_single_activation.py',
        model__teacher_ckpt=teacher,
        model__calculate_student_loss=False,
    )
    model, given = algorithm(cfg), []
    [loss] = model.distiller.distill_losses.values()
    loss.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs.get('gt_labels')),
        with_kwargs=True,
    )
    images = torch.randn(8, 3, 16, 16)
    for labelled in (False, True):
        model(images, samples(labelled), mode='loss')
    assert given[0] is None
    assert given[1].tolist() == list(range(8))


def test_two_ranks_learn_without_labels(tmp_path):
    """Under DDP, which waits for the gradient of every parameter."""
    teacher = str(save_teacher(tmp_path / 'teacher.pth'))
    cfg = digits_config(
        KD, model__teacher_ckpt=teacher, model__calculate_student_loss=False
    )

    def work(rank):
        wrapped = MMDistributedDataParallel(algorithm(cfg))
        grads = []
        for _ in range(2):
            wrapped.zero_grad()
            images = torch.randn(8, 3, 16, 16)
            losses = wrapped(images, samples(False), mode='loss')
            sum(losses.values()).backward()
            grads.append(wrapped.module.student.backbone.conv1.weight.grad.clone())
        return grads

    first, second = two_ranks(work, tmp_path)
    for one, other in zip(first, second, strict=True):
        assert one.abs().max() > 0
        assert torch.equal(one, other)


def test_what_has_labels():
    assert TASKS[0].has_label(DataSample().set_gt_score(torch.rand(3)))
    # It may have several labels, and has none of them.
    assert TASKS[0].has_label(DataSample().set_gt_label([]))
    assert TASKS[0].has_label(torch.tensor(1))
    assert not TASKS[0].has_label(DataSample().set_pred_label(1))
    assert lacking(samples(True), TASKS[0]) == ''
    assert lacking(None, TASKS[0]) == 'The images of this batch have no labels'


def test_a_model_without_a_teacher_is_left_alone(make_runner):
    runner = make_runner(digits_config('vanilla/resnet8_digits.py'))
    UnlabelledHook().before_train_iter(runner, 0, dict(data_samples=samples(False)))


def test_of_labels_and_scores_of_a_mixed_batch_none_is_left(start):
    runner = start()
    mixed = [DataSample().set_gt_label(1).set_gt_score(torch.rand(10)), DataSample()]
    UnlabelledHook().before_train_iter(runner, 0, dict(data_samples=mixed))
    assert not any('gt_label' in x or 'gt_score' in x for x in mixed)


def test_a_loss_that_waits_for_a_lost_rank_lacks_no_labels():
    error = RuntimeError('[gloo] Connection closed by peer [127.0.0.1]')
    with pytest.raises(RuntimeError) as caught, naming_labels('It has none'):
        raise error
    assert caught.value is error
