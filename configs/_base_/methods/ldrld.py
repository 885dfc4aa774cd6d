# LDRLD, arXiv 2507.15911.
_base_ = './logits.py'

distiller = dict(
    distill_losses=dict(
        loss_ldrld=dict(type='LDRLDLoss', tau=4.0, alpha=10.5, beta=7.0, top_classes=7)
    ),
    loss_forward_mappings=dict(
        loss_ldrld=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
        )
    ),
)
