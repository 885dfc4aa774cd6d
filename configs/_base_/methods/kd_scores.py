# KD of the class scores of a one-stage detector's five levels, each class by itself,
# because such heads score by a sigmoid. Each of several anchors at a position counts as
# one. Its numbers are chosen here.
_base_ = './logits.py'
levels = [f'logits{i}' for i in range(5)]
taps = {level: dict(type='Tap', source=level) for level in levels}

distiller = dict(
    student_recorders=taps,
    teacher_recorders=taps,
    distill_losses=dict(
        loss_scores=dict(
            type='LevelLoss',
            loss=dict(type='DenseLoss', loss=dict(type='SigmoidKDLoss', tau=1.0)),
        )
    ),
    loss_forward_mappings=dict(
        loss_scores=dict(
            preds_S=dict(recorder=levels, from_student=True),
            preds_T=dict(recorder=levels, from_student=False),
        )
    ),
)
del levels, taps
