# ReviewKD, arXiv 2104.09044: the student's three stages and the input of its
# classifier, fused, against the teacher's stages before their last activation.
levels = ['level1', 'level2', 'level3', 'pooled']
shared = dict(
    logits=dict(type='Tap', source='logits'),
    pooled=dict(type='Tap', source='pooled'),
)
distiller = dict(
    type='StrictDistiller',
    student_recorders=dict(
        gt_labels=dict(type='Tap', source='loss_inputs'),
        **{f'level{i}': dict(type='Tap', source=f'stage{i}') for i in (1, 2, 3)},
        **shared,
    ),
    teacher_recorders=dict(
        **{f'level{i}': dict(type='Tap', source=f'stage{i}_pre') for i in (1, 2, 3)},
        **shared,
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
del levels, shared
