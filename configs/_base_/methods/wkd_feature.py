# WKD-F alone, arXiv 2412.08139.
_base_ = './wkd_logit_feature.py'

distiller = dict(
    teacher_recorders=dict(
        _delete_=True,
        logits=_base_.distiller.teacher_recorders.logits,
        map=_base_.distiller.teacher_recorders.map,
    ),
    distill_losses=dict(
        _delete_=True, loss_feature=_base_.distiller.distill_losses.loss_feature
    ),
    loss_forward_mappings=dict(
        _delete_=True, loss_feature=_base_.distiller.loss_forward_mappings.loss_feature
    ),
)
