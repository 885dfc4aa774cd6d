# KD at each place of a segmentor's map of scores. All places count, because the teacher
# scores those without a label, too. Its numbers are chosen here.
_base_ = './logits.py'

distiller = dict(
    distill_losses=dict(
        loss_pixel=dict(type='DenseLoss', loss=dict(type='KDLoss', tau=1.0))
    ),
    loss_forward_mappings=dict(
        loss_pixel=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
        )
    ),
)
