_base_ = './cifar10_logit-double_network.py'

loss = dict(scorer=dict(_delete_=True, type='ActivationScorer'))
model = dict(distiller=dict(distill_losses=dict(loss_feature=loss, loss_second=loss)))
del loss
