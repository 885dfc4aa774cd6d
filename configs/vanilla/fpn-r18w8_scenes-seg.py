_base_ = ['../_base_/tasks/scenes-seg.py', '../_base_/nets/fpn_r18w8.py']

model = dict(
    decode_head=dict(
        num_classes=11,
        # Nine of ten pixels are background.
        loss_decode=dict(type='CrossEntropyLoss', class_weight=[0.1] + [1.0] * 10),
    )
)
