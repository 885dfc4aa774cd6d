# DIST, arXiv 2205.10536: MMRazor's own loss.
_base_ = './logits.py'

distiller = dict(
    distill_losses=dict(loss_dist=dict(type='DISTLoss', tau=4.0, loss_weight=2.0)),
    loss_forward_mappings=dict(
        loss_dist=dict(
            logits_S=dict(recorder='logits', from_student=True),
            logits_T=dict(recorder='logits', from_student=False),
        )
    ),
)
