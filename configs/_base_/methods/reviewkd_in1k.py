# The nets for ImageNet have four stages, all taken before their last activation.
_base_ = './reviewkd.py'

levels = dict(recorder=['level1', 'level2', 'level3', 'level4', 'pooled'])
distiller = dict(
    student_recorders={
        f'level{i}': dict(type='Tap', source=f'stage{i}_pre') for i in (1, 2, 3, 4)
    },
    teacher_recorders=dict(level4=dict(type='Tap', source='stage4_pre')),
    loss_forward_mappings=dict(loss_review=dict(preds_S=levels, preds_T=levels)),
)
del levels
