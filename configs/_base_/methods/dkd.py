# DKD, arXiv 2203.08679.
_base_ = './logits.py'

distiller = dict(
    distill_losses=dict(
        loss_dkd=dict(type='DecoupledKDLoss', tau=4.0, alpha=1.0, beta=2.0)
    ),
    loss_forward_mappings=dict(
        loss_dkd=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
            gt_labels=dict(recorder='gt_labels', from_student=True, data_idx=1),
        )
    ),
)
