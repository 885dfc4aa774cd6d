# NORM, arXiv 2305.13803. The leaf gives the student its neck, because the neck's widths
# are those of the two nets: architecture=dict(neck=dict(type='NORMNeck', ...)).
distiller = dict(
    type='StrictDistiller',
    student_recorders=dict(
        logits=dict(type='Tap', source='logits'),
        gt_labels=dict(type='Tap', source='loss_inputs'),
        segments=dict(type='Tap', source='neck.segments'),
    ),
    teacher_recorders=dict(
        logits=dict(type='Tap', source='logits'),
        last=dict(type='Tap', source='backbone'),
    ),
    distill_losses=dict(loss_norm=dict(type='NORMLoss', loss_weight=1.0)),
    loss_forward_mappings=dict(
        loss_norm=dict(
            preds_S=dict(recorder='segments', from_student=True),
            preds_T=dict(recorder='last', from_student=False),
        )
    ),
)
