# KD, arXiv 1503.02531: MMRazor's own loss.
_base_ = './logits.py'

distiller = dict(
    distill_losses=dict(loss_kd=dict(type='KLDivergence', tau=4.0, loss_weight=0.9)),
    loss_forward_mappings=dict(
        loss_kd=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
        )
    ),
)
