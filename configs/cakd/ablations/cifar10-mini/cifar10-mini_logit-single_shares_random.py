# The control of shares: random clusters.
_base_ = './cifar10-mini_logit-single_shares.py'
model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_feature=dict(scorer=dict(_delete_=True, type='RandomScorer'))
        )
    )
)
