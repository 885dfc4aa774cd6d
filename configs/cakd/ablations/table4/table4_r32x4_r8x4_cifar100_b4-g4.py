_base_ = '../../r32x4_r8x4_cifar100.py'

losses = dict(loss_feature=dict(beta=4.0, gamma=4.0))
model = dict(distiller=dict(distill_losses=losses))
del losses
