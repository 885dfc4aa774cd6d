_base_ = './cifar10-mini_logit-single_network.py'

loss = dict(scorer=dict(_delete_=True, type='RandomScorer'))
model = dict(distiller=dict(distill_losses=dict(loss_feature=loss)))
del loss
