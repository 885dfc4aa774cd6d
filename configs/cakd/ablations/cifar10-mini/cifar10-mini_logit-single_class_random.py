# The control of class: all images of a class share a random cluster of channels.
_base_ = './cifar10-mini_logit-single_class.py'
model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_feature=dict(scorer=dict(scorer=dict(type='RandomScorer')))
        )
    )
)
