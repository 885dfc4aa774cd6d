# CTKD, arXiv 2211.16231: KD at a learned temperature.
_base_ = './logits.py'

distiller = dict(
    distill_losses=dict(loss_ctkd=dict(type='CTKDLoss', epochs=10, loss_weight=0.9)),
    loss_forward_mappings=dict(
        loss_ctkd=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
        )
    ),
)
