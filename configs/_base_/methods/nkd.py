# NKD, arXiv 2303.13005.
_base_ = './logits.py'

distiller = dict(
    distill_losses=dict(loss_nkd=dict(type='NKDLoss', tau=1.0, gamma=1.5)),
    loss_forward_mappings=dict(
        loss_nkd=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
            gt_labels=dict(recorder='gt_labels', from_student=True, data_idx=1),
        )
    ),
)
