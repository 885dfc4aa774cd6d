# Axial slices of the one average brain that nilearn bundles (cakd_mm[brain]), 96x80,
# a tissue for each pixel: nothing to download.
data_preprocessor = dict(
    type='mmseg.SegDataPreProcessor',
    mean=[69.6] * 3,
    std=[88.5] * 3,
    size=(96, 80),
    test_cfg=dict(size=(96, 80)),
)

train_pipeline = [
    dict(type='mmseg.LoadImageFromNDArray'),
    # Left and right of the template are alike.
    dict(type='mmseg.RandomFlip', prob=0.5),
    dict(type='mmseg.PackSegInputs'),
]
test_pipeline = [
    dict(type='mmseg.LoadImageFromNDArray'),
    dict(type='mmseg.PackSegInputs'),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(type='BrainSlices', split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='pseudo_collate'),
)
val_dataloader = dict(
    batch_size=40,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(type='BrainSlices', split='test', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='pseudo_collate'),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmseg.IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
