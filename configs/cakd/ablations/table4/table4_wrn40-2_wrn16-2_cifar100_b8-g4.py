_base_ = '../../wrn40-2_wrn16-2_cifar100.py'

losses = dict(loss_feature=dict(beta=8.0, gamma=4.0))
model = dict(distiller=dict(distill_losses=losses))
del losses
