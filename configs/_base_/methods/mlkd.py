# Multi-level logit distillation (CVPR 2023). It compares two views of each image: a
# leaf takes the pipeline `two_views` of a file of _base_/views.
_base_ = './logits.py'

distiller = dict(
    distill_losses=dict(loss_mlkd=dict(type='MLKDLoss', tau=4.0, loss_weight=0.9)),
    loss_forward_mappings=dict(
        loss_mlkd=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
        )
    ),
)
