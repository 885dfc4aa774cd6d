# The control of together: random classes, and random clusters of a class.
_base_ = './cifar10-mini_logit-single_together.py'
model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_cakd=dict(scorer=dict(type='RandomScorer')),
            loss_feature=dict(scorer=dict(scorer=dict(type='RandomScorer'))),
        )
    )
)
