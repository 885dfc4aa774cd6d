# As 3-classes, with the weight of SCD that the feature has.
_base_ = './cifar10-mini_logit-single_network.py'
model = dict(
    distiller=dict(distill_losses=dict(loss_cakd=dict(strong_classes=3, beta=8.0)))
)
