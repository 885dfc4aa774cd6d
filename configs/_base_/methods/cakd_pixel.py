# CAKD at each place of a segmentor's map of scores, with the labelled class as the
# strong cluster. Places without a label (255) are left out. The paper has no such
# experiment: the numbers are those of cakd_logit_feature.py.
_base_ = './logits.py'

distiller = dict(
    student_recorders=dict(gt_map=dict(type='Tap', source='gt_map')),
    distill_losses=dict(
        loss_pixel=dict(
            type='DenseLoss',
            ignore_index=255,
            loss=dict(type='CAKDLogitLoss', tau=4.0, alpha=1.0, beta=1.0, gamma=2.0),
        )
    ),
    loss_forward_mappings=dict(
        loss_pixel=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
            gt_labels=dict(recorder='gt_map', from_student=True),
        )
    ),
)
