# WKD-L, arXiv 2412.08139. The costs of moving mass between classes follow from the
# weight of the teacher's classifier.
_base_ = './logits.py'

distiller = dict(
    teacher_recorders=dict(
        head_weight=dict(type='TapParameter', source='classifier.weight')
    ),
    distill_losses=dict(loss_wkd=dict(type='WKDLogitLoss', tau=2.0, gamma=30.0)),
    loss_forward_mappings=dict(
        loss_wkd=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
            gt_labels=dict(recorder='gt_labels', from_student=True, data_idx=1),
            head_weight=dict(recorder='head_weight', from_student=False),
        )
    ),
)
