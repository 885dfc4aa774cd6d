_base_ = '../../r32x4_r8x4_tinyimagenet.py'

losses = dict(loss_feature=dict(beta=8.0, gamma=4.0))
model = dict(distiller=dict(distill_losses=losses))
del losses
