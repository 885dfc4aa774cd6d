_base_ = '../../wrn40-2_wrn16-2_tinyimagenet.py'

losses = dict(loss_feature=dict(beta=8.0, gamma=1.0))
model = dict(distiller=dict(distill_losses=losses))
del losses
