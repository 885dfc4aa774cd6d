# KD of each class by itself, for nets that score classes by a sigmoid: several labels
# per image, or none. At tau=1 the logits' part of arXiv 2308.06453.
_base_ = './logits.py'

distiller = dict(
    distill_losses=dict(
        loss_sigmoid=dict(type='SigmoidKDLoss', tau=1.0, loss_weight=1.0)
    ),
    loss_forward_mappings=dict(
        loss_sigmoid=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
        )
    ),
)
