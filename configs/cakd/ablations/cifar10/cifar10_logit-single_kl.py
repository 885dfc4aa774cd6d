_base_ = './cifar10_logit-single_network.py'

loss = dict(_delete_=True, type='FeatureKLLoss', tau=4.0, standardize=True)
model = dict(distiller=dict(distill_losses=dict(loss_feature=loss)))
del loss
