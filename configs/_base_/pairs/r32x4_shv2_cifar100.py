_base_ = './r32x4_r8x4_cifar100.py'

model = dict(
    architecture=dict(
        backbone=dict(_delete_=True, type='CIFARShuffleNetV2'),
        head=dict(in_channels=1024),
    ),
)
