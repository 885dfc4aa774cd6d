# Eq. 10: the weak cluster's weight follows the teacher's confidence.
_base_ = '../r56_r20_cifar100.py'

losses = dict(loss_feature=dict(gamma='adaptive', round_ratio=True))
model = dict(distiller=dict(distill_losses=losses))
del losses
