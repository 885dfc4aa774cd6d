"""Tiny detectors and segmentors, and runs of them on scenes of digits."""

import uuid
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from tiny import CONFIGS

SIZE = 64
RETINANET: dict[str, Any] = dict(
    type='RetinaNet',
    _scope_='mmdet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[64.0] * 3, std=[64.0] * 3, pad_size_divisor=32
    ),
    backbone=dict(
        type='ResNet',
        depth=18,
        base_channels=4,
        stem_channels=4,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='BN'),
        style='pytorch',
    ),
    neck=dict(
        type='FPN',
        in_channels=[4, 8, 16, 32],
        out_channels=8,
        start_level=1,
        add_extra_convs='on_output',
        num_outs=5,
    ),
    bbox_head=dict(
        type='RetinaHead',
        num_classes=10,
        in_channels=8,
        stacked_convs=1,
        feat_channels=8,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=2,
            scales_per_octave=2,
            ratios=[1.0],
            strides=[8, 16, 32, 64, 128],
        ),
    ),
    train_cfg=dict(
        assigner=dict(
            type='MaxIoUAssigner',
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
            ignore_iof_thr=-1,
        ),
        sampler=dict(type='PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=100,
        min_bbox_size=0,
        score_thr=0.0,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=10,
    ),
)
FCN: dict[str, Any] = dict(
    type='EncoderDecoder',
    _scope_='mmseg',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[64.0] * 3,
        std=[64.0] * 3,
        size=(SIZE, SIZE),
        seg_pad_val=255,
    ),
    backbone=dict(
        type='ResNetV1c',
        depth=18,
        base_channels=4,
        stem_channels=4,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        norm_cfg=dict(type='BN'),
        style='pytorch',
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=32,
        in_index=3,
        channels=8,
        num_convs=1,
        dropout_ratio=0.0,
        num_classes=11,
        norm_cfg=dict(type='BN'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
# Of a ResNet-50 with four channels where it has 64.
NARROW_WIDTHS = [16, 32, 64, 128]
NARROW = dict(
    type='ResNet',
    depth=50,
    base_channels=4,
    stem_channels=4,
    norm_cfg=dict(type='BN'),
    style='pytorch',
)
# A feature of each net that has the same number of channels in all of them.
TAPPED = dict(mmdet='neck.fpn_convs.0.conv', mmseg='decode_head.convs.0')


def scenes_config(net: dict, *, scenes: int = 6, epochs: int = 1) -> Config:
    """Return a run in which a tiny net learns from a random one of its kind.

    Args:
        net (dict): :data:`RETINANET`, :data:`FCN`, or another net of their scopes.
        scenes (int): How many train, and how many validate. Defaults to 6.
        epochs (int): Defaults to 1.
    """
    scope = net['_scope_']
    detects = scope == 'mmdet'
    cfg = Config.fromfile(CONFIGS / '_base_/default_runtime.py')
    cfg.default_scope = scope
    del cfg.default_hooks.visualization
    cfg.visualizer = dict(
        type='DetLocalVisualizer' if detects else 'SegLocalVisualizer',
        vis_backends=[dict(type='LocalVisBackend')],
    )
    recorder = dict(fit=dict(type='ModuleOutputs', source=TAPPED[scope]))
    fed = {
        f'preds_{side}': dict(recorder='fit', from_student=side == 'S') for side in 'ST'
    }
    loss = dict(type='CAKDFeatureLoss', channels=8, granularity='channel')
    cfg.model = dict(
        _scope_='mmrazor',
        type='FrozenTeacherDistill',
        architecture=deepcopy(net),
        teacher=deepcopy(net),
        allow_random_teacher=True,
        distiller=dict(
            type='StrictDistiller',
            student_recorders=deepcopy(recorder),
            teacher_recorders=deepcopy(recorder),
            distill_losses=dict(loss_feature=loss),
            loss_forward_mappings=dict(loss_feature=fed),
        ),
    )
    pack = dict(type='PackDetInputs' if detects else 'PackSegInputs')
    pack['meta_keys'] = ('img_id', 'ori_shape', 'img_shape', 'scale_factor')
    load = [dict(type='LoadImageFromNDArray')]
    if detects:
        load.append(dict(type='LoadAnnotations', with_bbox=True))
    resize = dict(type='Resize', scale=(SIZE, SIZE), keep_ratio=True)
    kind = 'DigitScenes' if detects else 'DigitScenesPixels'
    for part, split in (('train', 'train'), ('val', 'test'), ('test', 'test')):
        flip = [dict(type='RandomFlip', prob=0.5)] if part == 'train' else []
        cfg[f'{part}_dataloader'] = dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=part == 'train'),
            dataset=dict(
                type=kind,
                split=split,
                scenes=scenes,
                size=SIZE,
                pipeline=[*load, resize, *flip, pack],
            ),
        )
    metric = dict(type='VOCMetric') if detects else dict(type='IoUMetric')
    cfg.val_evaluator = cfg.test_evaluator = metric
    cfg.train_cfg = dict(type='ResumableTrainLoop', max_epochs=epochs)
    cfg.val_cfg = cfg.test_cfg = dict()
    cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
    return cfg


def train_scenes(cfg: Config, work_dir: Path) -> Path:
    """Train a config in a work dir, and return it."""
    cfg.launcher, cfg.work_dir = 'none', str(work_dir)
    cfg.experiment_name = uuid.uuid4().hex
    Runner.from_cfg(cfg).train()
    return work_dir
