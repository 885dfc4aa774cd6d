_base_ = '../../r56_r20_tinyimagenet.py'

losses = dict(loss_feature=dict(beta=2.0, gamma=2.0))
model = dict(distiller=dict(distill_losses=losses))
del losses
