# CAKD on the classifier's input alone ("single feature").
_base_ = './cakd_logit_feature.py'

distiller = dict(
    distill_losses=dict(
        _delete_=True, loss_feature=_base_.distiller.distill_losses.loss_feature
    ),
    loss_forward_mappings=dict(
        _delete_=True, loss_feature=_base_.distiller.loss_forward_mappings.loss_feature
    ),
    balancer=None,
)
