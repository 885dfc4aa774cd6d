# Eq. 10: the weak cluster's weight follows the teacher's confidence.
_base_ = './digits/digits_logit-single_network.py'

losses = dict(loss_feature=dict(gamma='adaptive', round_ratio=True))
model = dict(distiller=dict(distill_losses=losses))
del losses
