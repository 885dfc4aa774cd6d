# WTTM, arXiv 2402.11148; weighted=False makes it TTM.
_base_ = './logits.py'

distiller = dict(
    distill_losses=dict(loss_wttm=dict(type='WTTMLoss', tau=5.0, loss_weight=4.0)),
    loss_forward_mappings=dict(
        loss_wttm=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
        )
    ),
)
