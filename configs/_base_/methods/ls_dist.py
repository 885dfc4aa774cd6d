# DIST with logit standardisation, which is of arXiv 2403.01427.
_base_ = './logits.py'

distiller = dict(
    distill_losses=dict(
        loss_dist=dict(type='DISTLogitLoss', tau=4.0, loss_weight=2.0, standardize=True)
    ),
    loss_forward_mappings=dict(
        loss_dist=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
        )
    ),
)
