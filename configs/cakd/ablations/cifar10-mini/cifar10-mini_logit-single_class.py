# All images of a class share a cluster of channels, those strong for the class.
_base_ = './cifar10-mini_logit-single_network.py'
model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_feature=dict(scorer=dict(_delete_=True, type='ClassScorer'))
        )
    )
)
