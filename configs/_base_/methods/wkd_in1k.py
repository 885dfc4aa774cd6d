# The nets for ImageNet have four stages, and the public code puts a bottleneck of 256
# channels between the last maps. A leaf says the widths of the maps.
_base_ = './wkd.py'

distiller = dict(
    student_recorders=dict(map=dict(source='stage4')),
    teacher_recorders=dict(map=dict(source='stage4')),
    connectors=dict(
        _delete_=True,
        map=[
            dict(type='MapConnector', out_channels=256),
            dict(
                type='MapConnector',
                in_channels=256,
                out_channels=256,
                kernel_size=3,
                padding=1,
            ),
            dict(
                type='MapConnector',
                in_channels=256,
                norm_cfg=dict(type='BN'),
                act_cfg=dict(type='ReLU'),
            ),
        ],
    ),
)
