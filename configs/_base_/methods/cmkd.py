# CMKD, arXiv 2410.06561, reconstructed from its abstract: see CMKDLoss.
_base_ = './logits.py'

distiller = dict(
    distill_losses=dict(loss_cmkd=dict(type='CMKDLoss', alpha=1.0, beta=1.0)),
    loss_forward_mappings=dict(
        loss_cmkd=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
        )
    ),
)
