# Made scenes of scikit-learn's digit scans, 64x64, a class for each pixel: nothing to
# download.
data_preprocessor = dict(
    type='mmseg.SegDataPreProcessor',
    mean=[75.9] * 3,
    std=[44.0] * 3,
    size=(64, 64),
    test_cfg=dict(size=(64, 64)),
)

# A scene has its map of classes from the beginning, and `LoadAnnotations` reads files.
# Small digits, because each pixel has to know the whole digit.
scenes = dict(type='DigitScenesPixels', objects=(2, 5), sides=(12, 24))
pipeline = [
    dict(type='mmseg.LoadImageFromNDArray'),
    dict(type='mmseg.PackSegInputs'),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(scenes, split='train', scenes=640, pipeline=pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='pseudo_collate'),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(scenes, split='test', scenes=300, pipeline=pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='pseudo_collate'),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmseg.IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
del scenes
