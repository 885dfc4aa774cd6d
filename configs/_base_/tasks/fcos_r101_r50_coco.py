_base_ = [
    '../runtime_det.py',
    '../datasets/coco.py',
    '../schedules/coco_1x.py',
    '../pairs/fcos_r101_r50_coco.py',
]
# As mmdet's own configs of this detector have it.
optim_wrapper = dict(
    optimizer=dict(lr=0.01),
    paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='ConstantLR', factor=1 / 3, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11]),
]
