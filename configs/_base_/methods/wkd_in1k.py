# The nets for ImageNet have four stages. As in the public code, a bottleneck leads from
# one map to the other.
_base_ = './wkd.py'

distiller = dict(
    student_recorders=dict(map=dict(source='stage4')),
    teacher_recorders=dict(map=dict(source='stage4')),
    connectors=dict(map=dict(type='BottleneckConnector', mid_channels=256)),
)
