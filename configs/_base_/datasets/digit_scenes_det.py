# Made scenes of scikit-learn's digit scans, 64x64, with boxes: nothing to download.
data_preprocessor = dict(
    type='mmdet.DetDataPreprocessor', mean=[75.9] * 3, std=[44.0] * 3
)

train_pipeline = [
    dict(type='mmdet.LoadImageFromNDArray'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PackDetInputs'),
]
test_pipeline = [
    dict(type='mmdet.LoadImageFromNDArray'),
    # Resizes nothing, but says so: mmdet maps boxes back by `scale_factor`.
    dict(type='mmdet.Resize', scale=(64, 64)),
    # COCO's metric reads `instances`, where no file has the annotations.
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
    ),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type='DigitScenes', split='train', scenes=640, pipeline=train_pipeline
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='pseudo_collate'),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(type='DigitScenes', split='test', scenes=300, pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='pseudo_collate'),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmdet.CocoMetric', metric='bbox')
test_evaluator = val_evaluator
