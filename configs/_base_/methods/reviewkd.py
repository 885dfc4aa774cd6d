# ReviewKD, arXiv 2104.09044: the student's three stages and the input of its
# classifier, fused, against the teacher's stages before their last activation.
_base_ = './logits.py'

levels = ['level1', 'level2', 'level3', 'pooled']
pooled = dict(pooled=dict(type='Tap', source='pooled'))
distiller = dict(
    student_recorders=dict(
        **{f'level{i}': dict(type='Tap', source=f'stage{i}') for i in (1, 2, 3)},
        **pooled,
    ),
    teacher_recorders=dict(
        **{f'level{i}': dict(type='Tap', source=f'stage{i}_pre') for i in (1, 2, 3)},
        **pooled,
    ),
    connectors=dict(fusion=dict(type='FusionConnector')),
    distill_losses=dict(loss_review=dict(type='HCLLoss', loss_weight=1.0)),
    loss_forward_mappings=dict(
        loss_review=dict(
            preds_S=dict(recorder=levels, from_student=True, connector='fusion'),
            preds_T=dict(recorder=levels, from_student=False),
        )
    ),
)
del levels, pooled
