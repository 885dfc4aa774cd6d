# CAKD on the logits (Eq. 8).
_base_ = './logits.py'

distiller = dict(
    distill_losses=dict(
        loss_cakd=dict(type='CAKDLogitLoss', tau=4.0, alpha=1.0, beta=1.0, gamma=2.0)
    ),
    loss_forward_mappings=dict(
        loss_cakd=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
            gt_labels=dict(recorder='gt_labels', from_student=True, data_idx=1),
        )
    ),
)
