_base_ = './wrn40-2_wrn16-2_cifar100.py'

model = dict(
    architecture=dict(
        backbone=dict(_delete_=True, type='CIFARShuffleNetV1'),
        head=dict(in_channels=960),
    ),
)
