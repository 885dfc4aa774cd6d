"""A whole leaf in mmengine's new style: each type is a class, and no base is read."""

from mmcv.transforms import Resize
from mmengine.dataset import DefaultSampler, default_collate
from mmengine.hooks import (
    DistSamplerSeedHook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
)
from mmengine.optim import MultiStepLR, OptimWrapper
from mmengine.runner import TestLoop, ValLoop
from mmengine.visualization import LocalVisBackend
from mmpretrain.datasets import PackInputs, RandomCrop
from mmpretrain.engine.hooks import VisualizationHook
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead
from mmpretrain.visualization import UniversalVisualizer
from torch.optim import SGD

from cakd_mm.datasets import Digits
from cakd_mm.engine.hooks import (
    BoundedHistoryHook,
    DeferredInfoHook,
    DistillEpochHook,
    DistillTermsHook,
    ExtractStudentHook,
    FiniteLossHook,
    LabelRangeHook,
    SampleIndexHook,
    WholeCheckpointHook,
)
from cakd_mm.engine.loops import ResumableTrainLoop
from cakd_mm.models.algorithms import FrozenTeacherDistill
from cakd_mm.models.backbones import CIFARResNet
from cakd_mm.models.connectors import PooledConnector
from cakd_mm.models.data_preprocessors import BatchPreprocessor
from cakd_mm.models.distillers import LossRatioBalancer, StrictDistiller
from cakd_mm.models.losses import CAKDFeatureLoss, CAKDLogitLoss
from cakd_mm.models.scorers import ScoringNetwork

default_scope = 'mmpretrain'
default_hooks = dict(
    runtime_info=dict(type=DeferredInfoHook),
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=1),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=WholeCheckpointHook, interval=1, max_keep_ckpts=3),
    sampler_seed=dict(type=DistSamplerSeedHook),
    visualization=dict(type=VisualizationHook, enable=False),
    finite=dict(type=FiniteLossHook, interval=100),
    labels=dict(type=LabelRangeHook),
    terms=dict(type=DistillTermsHook),
    distill_epoch=dict(type=DistillEpochHook),
    sample_index=dict(type=SampleIndexHook),
    extract=dict(type=ExtractStudentHook),
    history=dict(type=BoundedHistoryHook),
)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
visualizer = dict(type=UniversalVisualizer, vis_backends=[dict(type=LocalVisBackend)])
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0, deterministic=False)

data_preprocessor = dict(
    type=BatchPreprocessor,
    num_classes=10,
    mean=[77.8] * 3,
    std=[95.7] * 3,
    to_rgb=False,
)
train_pipeline = [
    dict(type=Resize, scale=16, interpolation='bilinear'),
    dict(type=RandomCrop, crop_size=16, padding=2),
    dict(type=PackInputs),
]
test_pipeline = [
    dict(type=Resize, scale=16, interpolation='bilinear'),
    dict(type=PackInputs),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(type=Digits, split='train', pipeline=train_pipeline, indices=96),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=default_collate),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(type=Digits, split='test', pipeline=test_pipeline, indices=70),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=default_collate),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=Accuracy, topk=(1,))
test_evaluator = val_evaluator
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=SGD, lr=0.05, momentum=0.9, weight_decay=5e-4),
)
param_scheduler = dict(type=MultiStepLR, by_epoch=True, milestones=[6, 9], gamma=0.1)
train_cfg = dict(type=ResumableTrainLoop, max_epochs=2, val_interval=1)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
auto_scale_lr = dict(base_batch_size=64)


def _net(depth):
    return dict(
        type=ImageClassifier,
        backbone=dict(type=CIFARResNet, depth=depth),
        neck=dict(type=GlobalAveragePooling),
        head=dict(type=LinearClsHead, num_classes=10, in_channels=64),
    )


model = dict(
    type=FrozenTeacherDistill,
    architecture=_net(8),
    teacher=_net(20),
    teacher_ckpt='teacher.pth',
    distiller=dict(
        type=StrictDistiller,
        student_recorders=dict(
            logits=dict(type='ModuleOutputs', source='head'),
            feature=dict(type='ModuleOutputs', source='neck'),
            gt_labels=dict(type='ModuleInputs', source='head.loss_module'),
        ),
        teacher_recorders=dict(
            logits=dict(type='ModuleOutputs', source='head'),
            feature=dict(type='ModuleOutputs', source='neck'),
            head_weight=dict(type='Parameter', source='head.fc.weight'),
            head_bias=dict(type='Parameter', source='head.fc.bias'),
        ),
        connectors=dict(feature=dict(type=PooledConnector)),
        distill_losses=dict(
            loss_cakd=dict(type=CAKDLogitLoss, tau=4.0, alpha=1.0, beta=1.0, gamma=2.0),
            loss_feature=dict(
                type=CAKDFeatureLoss,
                tau=4.0,
                alpha=1.0,
                beta=8.0,
                gamma=2.0,
                strong_share=0.5,
                scorer=dict(type=ScoringNetwork),
                standardize=True,
            ),
        ),
        loss_forward_mappings=dict(
            loss_cakd=dict(
                preds_S=dict(recorder='logits', from_student=True),
                preds_T=dict(recorder='logits', from_student=False),
                gt_labels=dict(recorder='gt_labels', from_student=True, data_idx=1),
            ),
            loss_feature=dict(
                preds_S=dict(
                    recorder='feature',
                    from_student=True,
                    data_idx=0,
                    connector='feature',
                ),
                preds_T=dict(recorder='feature', from_student=False, data_idx=0),
                gt_labels=dict(recorder='gt_labels', from_student=True, data_idx=1),
                head_weight=dict(recorder='head_weight', from_student=False),
                head_bias=dict(recorder='head_bias', from_student=False),
            ),
        ),
        balancer=dict(
            type=LossRatioBalancer,
            losses=['loss_feature'],
            reference='loss_cakd',
            ratio=1.0,
        ),
    ),
)
