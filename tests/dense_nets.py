"""Tiny nets of mmdet and mmseg, and batches that they learn from."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

import cakd_mm  # noqa: F401  (MMRazor needs it first)

# isort: split
from mmrazor.registry import MODELS

CLASSES = 4  # as many as a box has coordinates, so that no shape tells them apart
WIDTH = 16
BACKBONE = dict(
    type='ResNet', depth=18, base_channels=4, norm_cfg=dict(type='BN'), style='pytorch'
)
WIDTHS = [4, 8, 16, 32]
DEEP = {**BACKBONE, 'depth': 34}
FPN = dict(type='FPN', in_channels=WIDTHS, out_channels=WIDTH, num_outs=5)
PYRAMID = {**FPN, 'start_level': 1, 'add_extra_convs': 'on_output'}
HEAD = dict(num_classes=CLASSES, in_channels=WIDTH, feat_channels=WIDTH)
ONE_STAGE: dict[str, Any] = dict(
    backbone=BACKBONE,
    neck=PYRAMID,
    test_cfg=dict(
        nms_pre=50,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=10,
    ),
)
ASSIGNER = dict(
    type='MaxIoUAssigner',
    pos_iou_thr=0.5,
    neg_iou_thr=0.4,
    min_pos_iou=0,
    ignore_iof_thr=-1,
)
BOX_CODER = dict(
    type='DeltaXYWHBBoxCoder',
    target_means=[0.0] * 4,
    target_stds=[1.0] * 4,
)
FOCAL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
L1 = dict(type='L1Loss', loss_weight=1.0)
SOFTMAX = dict(type='CrossEntropyLoss', use_sigmoid=False)
SAMPLER = dict(type='RandomSampler', num=16, pos_fraction=0.5, add_gt_as_proposals=True)
PROPOSALS = dict(
    nms_pre=50,
    max_per_img=20,
    nms=dict(type='nms', iou_threshold=0.7),
    min_bbox_size=0,
)


def retinanet(**options: Any) -> dict:
    """Return the config of a RetinaNet of two boxes at each position."""
    head = dict(
        HEAD,
        type='RetinaHead',
        stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator',
            scales=[4],
            ratios=[0.5, 1.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=BOX_CODER,
        loss_cls=FOCAL,
        loss_bbox=L1,
    )
    train = dict(assigner=ASSIGNER, allowed_border=-1, pos_weight=-1)
    sampler = dict(type='PseudoSampler')
    return {
        'type': 'RetinaNet',
        **ONE_STAGE,
        'bbox_head': head,
        'train_cfg': dict(train, sampler=sampler),
        **options,
    }


def fcos(**options: Any) -> dict:
    """Return the config of an FCOS."""
    head = dict(
        HEAD,
        type='FCOSHead',
        stacked_convs=1,
        strides=[8, 16, 32, 64, 128],
        norm_cfg=None,
    )
    return {'type': 'FCOS', **ONE_STAGE, 'bbox_head': head, **options}


def gfl(**options: Any) -> dict:
    """Return the config of a GFL."""
    head = dict(
        HEAD,
        type='GFLHead',
        stacked_convs=1,
        norm_cfg=None,
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=[8, 16, 32, 64, 128],
        ),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        reg_max=4,
    )
    train = dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1)
    return {
        'type': 'GFL',
        **ONE_STAGE,
        'bbox_head': head,
        'train_cfg': dict(train, pos_weight=-1),
        **options,
    }


def _box_head() -> dict:
    return dict(
        type='Shared2FCBBoxHead',
        in_channels=WIDTH,
        fc_out_channels=16,
        roi_feat_size=7,
        num_classes=CLASSES,
        bbox_coder=BOX_CODER,
        reg_class_agnostic=True,
        loss_cls=SOFTMAX,
        loss_bbox=L1,
    )


def two_stages(kind: str, stages: int = 1, masks: bool = False) -> dict:
    """Return the config of a detector of two stages, the second in so many steps."""
    rpn = dict(
        type='RPNHead',
        in_channels=WIDTH,
        feat_channels=WIDTH,
        anchor_generator=dict(
            type='AnchorGenerator',
            scales=[8],
            ratios=[0.5, 1.0],  # of a single score mmdet makes a number
            strides=[4, 8, 16, 32, 64],
        ),
        bbox_coder=BOX_CODER,
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
        loss_bbox=L1,
    )

    def pool(size: int) -> dict:
        return dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=size, sampling_ratio=0),
            out_channels=WIDTH,
            featmap_strides=[4, 8, 16, 32],
        )

    roi = dict(type='StandardRoIHead', bbox_roi_extractor=pool(7))
    roi['bbox_head'] = _box_head()
    step = dict(
        assigner={**ASSIGNER, 'neg_iou_thr': 0.5, 'min_pos_iou': 0.5},
        sampler=SAMPLER,
        pos_weight=-1,
        debug=False,
    )
    steps: Any = step
    if stages > 1:
        roi.update(
            type='CascadeRoIHead',
            num_stages=stages,
            stage_loss_weights=[1.0] * stages,
            bbox_head=[_box_head() for _ in range(stages)],
        )
        steps = [step] * stages
    if masks:
        roi.update(
            mask_roi_extractor=pool(14),
            mask_head=dict(
                type='FCNMaskHead',
                num_convs=1,
                in_channels=WIDTH,
                conv_out_channels=8,
                num_classes=CLASSES,
                loss_mask=dict(type='CrossEntropyLoss', use_mask=True),
            ),
        )
        step['mask_size'] = 28
    return dict(
        type=kind,
        backbone=BACKBONE,
        neck=FPN,
        rpn_head=rpn,
        roi_head=roi,
        train_cfg=dict(
            rpn=dict(
                assigner={**ASSIGNER, 'pos_iou_thr': 0.7, 'min_pos_iou': 0.3},
                sampler={**SAMPLER, 'add_gt_as_proposals': False},
                allowed_border=-1,
                pos_weight=-1,
            ),
            rpn_proposal=PROPOSALS,
            rcnn=steps,
        ),
        test_cfg=dict(
            rpn=PROPOSALS,
            rcnn=dict(
                score_thr=0.05,
                nms=dict(type='nms', iou_threshold=0.5),
                max_per_img=10,
                mask_thr_binary=0.5,
            ),
        ),
    )


def detr() -> dict:
    """Return the config of a DETR of one layer and five queries."""
    attention = dict(embed_dims=WIDTH, num_heads=2, batch_first=True)
    network = dict(embed_dims=WIDTH, feedforward_channels=WIDTH, num_fcs=2)
    layer = dict(self_attn_cfg=attention, ffn_cfg=network)
    return dict(
        type='DETR',
        num_queries=5,
        backbone={**BACKBONE, 'out_indices': (3,)},
        neck=dict(
            type='ChannelMapper',
            in_channels=WIDTHS[3:],
            kernel_size=1,
            out_channels=WIDTH,
            num_outs=1,
        ),
        encoder=dict(num_layers=1, layer_cfg=layer),
        decoder=dict(
            num_layers=1,
            layer_cfg=dict(layer, cross_attn_cfg=attention),
            return_intermediate=True,
        ),
        positional_encoding=dict(num_feats=WIDTH // 2, normalize=True),
        bbox_head=dict(
            type='DETRHead',
            num_classes=CLASSES,
            embed_dims=WIDTH,
            loss_cls=dict(SOFTMAX, bg_cls_weight=0.1, class_weight=1.0),
            loss_bbox=L1,
            loss_iou=dict(type='GIoULoss', loss_weight=2.0),
        ),
        train_cfg=dict(
            assigner=dict(
                type='HungarianAssigner',
                match_costs=[dict(type='ClassificationCost', weight=1.0)],
            )
        ),
        test_cfg=dict(max_per_img=5),
    )


DETECTORS: dict[str, Callable[[], dict]] = {
    'RetinaNet': retinanet,
    'FCOS': fcos,
    'GFL': gfl,
    'Faster R-CNN': lambda: two_stages('FasterRCNN'),
    'Cascade R-CNN': lambda: two_stages('CascadeRCNN', stages=2),
    'Mask R-CNN': lambda: two_stages('MaskRCNN', masks=True),
    'DETR': detr,
}

DILATED = dict(BACKBONE, type='ResNetV1c', strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
DECODER = dict(
    num_classes=CLASSES,
    channels=8,
    dropout_ratio=0.1,
    align_corners=False,
    loss_decode=dict(SOFTMAX, loss_weight=1.0),
)


def segmentor(head: dict, backbone: dict = DILATED, **options: Any) -> dict:
    """Return the config of a segmentor with a head, and one that helps it."""
    auxiliary = dict(type='FCNHead', in_channels=16, in_index=2, num_convs=1)
    return dict(
        type='EncoderDecoder',
        backbone=backbone,
        decode_head={**DECODER, **head},
        auxiliary_head={**DECODER, **auxiliary},
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
        **options,
    )


def segformer() -> dict:
    """Return the config of a SegFormer."""
    backbone = dict(
        type='MixVisionTransformer',
        embed_dims=4,
        num_layers=[1, 1, 1, 1],
        num_heads=[1, 2, 4, 8],
        patch_sizes=[7, 3, 3, 3],
        sr_ratios=[8, 4, 2, 1],
        mlp_ratio=2,
    )
    head = dict(
        type='SegformerHead',
        in_channels=[4, 8, 16, 32],
        in_index=[0, 1, 2, 3],
        norm_cfg=dict(type='BN'),
    )
    made = segmentor(head, backbone)
    made['auxiliary_head'] = None
    return made


SEGMENTORS: dict[str, Callable[[], dict]] = {
    'PSPNet': lambda: segmentor(
        dict(type='PSPHead', in_channels=32, in_index=3, pool_scales=(1, 2))
    ),
    'DeepLabV3': lambda: segmentor(
        dict(type='ASPPHead', in_channels=32, in_index=3, dilations=(1, 2))
    ),
    'UPerNet': lambda: segmentor(
        dict(
            type='UPerHead',
            in_channels=WIDTHS,
            in_index=[0, 1, 2, 3],
            pool_scales=(1, 2),
        ),
        {**BACKBONE, 'type': 'ResNet'},
    ),
    'SegFormer': segformer,
}


def dense_net(cfg: dict, seed: int = 0) -> nn.Module:
    """Build a net of mmdet or of mmseg, the same at every call."""
    scope = 'mmseg' if 'decode_head' in cfg else 'mmdet'
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope(scope):
        import_module(f'{scope}.models')
        return MODELS.build(Config(dict(cfg, _scope_=scope)))


def dense_batch(cfg: dict, size: tuple[int, int] = (64, 64)) -> tuple[Tensor, list]:
    """Return two random images, (2, 3, H, W), and their annotations."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, *size, generator=generator)
    metas = dict(
        img_shape=size,
        ori_shape=size,
        pad_shape=size,
        batch_input_shape=size,
        scale_factor=(1.0, 1.0),
    )
    if 'decode_head' in cfg:
        sample: Any = import_module('mmseg.structures').SegDataSample
        samples = [sample(metainfo=metas) for _ in images]
        for one in samples:
            labels = torch.randint(0, CLASSES, (1, *size), generator=generator)
            labels[:, :3] = 255
            one.gt_sem_seg = PixelData(data=labels)
        return images, samples
    sample = import_module('mmdet.structures').DetDataSample
    masks: Any = import_module('mmdet.structures.mask').BitmapMasks
    samples = [sample(metainfo=metas) for _ in images]
    for one in samples:
        boxes = torch.tensor([[4.0, 4, 28, 30], [20, 10, 60, 58]])
        shown = torch.zeros(2, *size, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(shown, boxes.int(), strict=True):
            mask[top:bottom, left:right] = 1
        one.gt_instances = InstanceData(
            bboxes=boxes,
            labels=torch.tensor([1, 3]),
            masks=masks(shown.numpy(), *size),
        )
        one.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
    return images, samples


def compared_at(source: str) -> dict:
    """Return the config of a distiller that compares both nets at one tap."""
    taps = dict(x=dict(type='Tap', source=source))
    feeds = {
        f'preds_{side}': dict(recorder='x', from_student=side == 'S') for side in 'ST'
    }
    return dict(
        type='StrictDistiller',
        student_recorders=taps,
        teacher_recorders=taps,
        distill_losses=dict(loss=dict(type='ChannelWiseDivergence')),
        loss_forward_mappings=dict(loss=feeds),
    )
