"""Every config of detectors and segmentors is loaded, built small and does a step."""

import pytest
import torch
from leaves import BASES, DENSE, bases, chains
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS
from tiny import CONFIGS

from cakd_mm.models.losses import DenseLoss
from cakd_mm.tasks import task_of
from cakd_mm.utils.net_config import net_config

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from dense_nets import dense_batch

WIDTHS = [4, 8, 16, 32]
# Detector or decoder, by the beginning of a pair's name.
KINDS = {
    'retinanet': ('RetinaNet', 'coco'),
    'gfl': ('GFL', 'coco'),
    'fcos': ('FCOS', 'coco'),
    'faster-rcnn': ('FasterRCNN', 'coco'),
    'pspnet': ('PSPHead', 'cityscapes'),
    'deeplabv3': ('ASPPHead', 'cityscapes'),
}
TASKS = sorted({bases(CONFIGS / name)[0] for name in DENSE})


def shrunk(net):
    """Return the config of a net with few and narrow layers."""
    net = net_config(net, 'model.architecture')
    net.pop('pretrained', None)
    norm = dict(type='BN')
    net.backbone.update(depth=18, base_channels=4, init_cfg=None, norm_cfg=norm)
    if 'decode_head' in net:
        net.backbone.stem_channels = 4
        net.decode_head.update(in_channels=32, channels=8, norm_cfg=norm)
        net.auxiliary_head.update(in_channels=16, channels=8, norm_cfg=norm)
        return net
    net.neck.update(in_channels=WIDTHS, out_channels=16)
    for head in (net.get('bbox_head'), net.get('rpn_head')):
        if head is not None:
            head.update(in_channels=16, feat_channels=16)
        if head is not None and head.type != 'RPNHead':
            head.stacked_convs = 1
            if head.type != 'RetinaHead':
                head.norm_cfg = dict(type='GN', num_groups=4)
    if 'roi_head' in net:
        net.roi_head.bbox_roi_extractor.out_channels = 16
        net.roi_head.bbox_head.update(in_channels=16, fc_out_channels=16)
    return net


@pytest.mark.parametrize('task', TASKS, ids=lambda task: task.stem)
def test_a_pair_has_the_nets_of_its_name(task):
    cfg = Config.fromfile(task)
    kind, teacher, student, data = task.stem.split('_')
    known, known_data = KINDS[kind]
    assert data == known_data
    for side, depth in (('teacher', teacher), ('architecture', student)):
        net = net_config(cfg.model[side], f'model.{side}')
        assert f'r{net.backbone.depth}' == depth
        assert known in (net.type, net.get('decode_head', {}).get('type'))
        head = net.get('decode_head') or net.get('bbox_head') or net.roi_head.bbox_head
        assert head.num_classes == (19 if data == 'cityscapes' else 80)
        # mmdet and mmseg name the file of weights after the config, in other words.
        first = 'neck' if data == 'coco' else 'decode_head'
        last = net[first].in_channels
        last = last[-1] if isinstance(last, list) else last
        assert last == (512 if depth == 'r18' else 2048)
    name = cfg.model.teacher_ckpt.rpartition('/')[2]
    assert name.startswith(f'{kind.replace("-", "_")}_{teacher}')
    assert cfg.default_scope == ('mmdet' if data == 'coco' else 'mmseg')
    assert cfg.env_cfg.cudnn_benchmark is (data == 'cityscapes')
    assert cfg.custom_imports.imports == ['cakd_mm']
    assert {'finite', 'labels', 'extract', 'class_names'} <= cfg.default_hooks.keys()
    by_epoch = cfg.train_cfg.type == 'ResumableTrainLoop'
    assert by_epoch is (data == 'coco')
    assert by_epoch or cfg.train_cfg.type == 'ResumableIterLoop'
    assert cfg.default_hooks.checkpoint.get('by_epoch', True) is by_epoch
    folders = [base.parent.name for base in bases(task)]
    assert folders == ['_base_', 'datasets', 'schedules', 'pairs']


def test_a_schedule_is_that_of_the_projects():
    """It is written again where a base of theirs has hooks beside it."""
    pytest.importorskip('mmseg')
    ours = Config.fromfile(BASES / 'schedules' / 'cityscapes_80k.py')
    theirs = get_config('mmseg::_base_/schedules/schedule_80k.py')
    assert ours.optim_wrapper.optimizer == theirs.optim_wrapper.optimizer
    assert [ours.param_scheduler] == theirs.param_scheduler
    lengths = 'max_iters', 'val_interval'
    assert all(ours.train_cfg[key] == theirs.train_cfg[key] for key in lengths)
    # And a detector's own schedule is that of its own config.
    for kind in ('retinanet_r50_r18', 'gfl_r101_r18', 'fcos_r101_r50'):
        task = Config.fromfile(BASES / 'tasks' / f'{kind}_coco.py')
        own = get_config(task.model.architecture.cfg_path)
        for key in ('lr', 'momentum', 'weight_decay'):
            assert task.optim_wrapper.optimizer[key] == own.optim_wrapper.optimizer[key]
        steps = [list(map(dict, x.param_scheduler)) for x in (task, own)]
        for step in (*steps[0], *steps[1]):
            step.pop('_scope_', None)
        steps[0][1].setdefault('gamma', 0.1)  # which it is if nothing is said
        assert steps[0] == steps[1]
        for key in ('paramwise_cfg', 'clip_grad'):
            assert task.optim_wrapper.get(key) == own.optim_wrapper.get(key)


def check_rows(algorithm):
    """A row of each DenseLoss has the classes of one box, or of one pixel."""
    found = [x for x in algorithm.modules() if isinstance(x, DenseLoss)]
    wanted = task_of(algorithm.student).declared_classes(algorithm.student)
    assert {x.num_classes for x in found} <= {wanted}


@pytest.mark.parametrize('name', DENSE)
def test_a_distillation_does_a_step(name):
    """One step of small nets, in which each loss moves the student's backbone."""
    leaf = CONFIGS / name
    cfg = Config.fromfile(leaf)
    assert max(len(way) for way in chains(leaf)) <= 4
    assert [base.parent.name for base in bases(leaf)] == ['tasks', 'methods']
    lines = [x for x in leaf.read_text().splitlines() if x and not x.startswith('#')]
    assert len(lines) <= 12
    model = cfg.model
    model.update(teacher_ckpt=None, allow_random_teacher=True)
    for side in ('architecture', 'teacher'):
        model[side] = shrunk(model[side])
    for connector in model.distiller.get('connectors', {}).values():
        connector.update(student_channels=16, teacher_channels=16)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        algorithm = MODELS.build(model).train()
    images, samples = dense_batch(model.architecture)
    losses = algorithm(images, samples, mode='loss')
    check_rows(algorithm)
    declared = {f'distill.{loss}' for loss in model.distiller.distill_losses}
    assert declared <= set(losses)
    assert all(x.startswith('student.') for x in losses.keys() - declared)
    for loss in declared:
        assert torch.isfinite(losses[loss]) and losses[loss] > 0, losses
        algorithm.zero_grad()
        losses[loss].backward()
        weights = algorithm.student.backbone.layer4.parameters()
        kernels = [x for x in weights if x.dim() == 4]  # some norms are not trained
        assert all(x.grad.abs().sum() > 0 for x in kernels)


@pytest.mark.parametrize(
    ('task', 'method'),
    [
        ('retinanet_r50_r18_coco', 'cakd_fpn'),
        ('gfl_r101_r18_coco', 'kd_scores'),
        ('pspnet_r50_r18_cityscapes', 'cakd_pixel'),
        ('deeplabv3_r50_r18_cityscapes', 'cwd'),
        ('fcos_r101_r50_coco', 'pkd'),
    ],
)
def test_bases_are_found_by_name(task, method, tmp_path):
    """From a folder outside the checkout they give what a leaf of ours has."""
    file = tmp_path / 'mine.py'
    named = f"_base_ = ['cakd_mm::_base_/tasks/{task}.py', "
    named += f"'cakd_mm::_base_/methods/{method}.py']"
    file.write_text(f'{named}\nmodel = dict(distiller=_base_.distiller)\n')
    folder = method.partition('_')[0]
    name = f'{task}.py' if folder == 'cakd' else f'{folder}_{task}.py'
    found, leaf = (Config.fromfile(x) for x in (file, CONFIGS / folder / name))

    def plain(part):
        """Leave out where a part was found."""
        if isinstance(part, dict):
            return {k: plain(v) for k, v in part.items() if k != '_scope_'}
        return list(map(plain, part)) if isinstance(part, (list, tuple)) else part

    kinds = {x['type'] for x in leaf.model.distiller.distill_losses.values()}
    assert {x['type'] for x in found.model.distiller.distill_losses.values()} == kinds
    recorders = 'student_recorders', 'teacher_recorders', 'loss_forward_mappings'
    for key in recorders:
        assert plain(found.model.distiller[key]) == plain(leaf.model.distiller[key])
    assert plain(found.optim_wrapper) == plain(leaf.optim_wrapper)
