# Three strong classes, clusters of a class, and set shares of both gradients.
_base_ = './cifar10-mini_logit-single_class.py'
shares = dict(bcd=0.2, scd=0.6, wcd=0.2)
model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_cakd=dict(strong_classes=3, beta=2.0, gradient_shares=shares),
            loss_feature=dict(gradient_shares=shares),
        )
    )
)
del shares
