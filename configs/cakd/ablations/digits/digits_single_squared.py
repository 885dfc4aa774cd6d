_base_ = './digits_single_network.py'

# At this weight its value is about that of the clusters' (beta 8, gamma 2).
loss = dict(
    _delete_=True, type='FeatureSquaredLoss', standardize=True, loss_weight=10.0
)
model = dict(distiller=dict(distill_losses=dict(loss_feature=loss)))
del loss
