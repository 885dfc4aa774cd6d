# BCD, SCD and WCD of the feature have set shares of the gradient.
_base_ = './cifar10-mini_logit-single_network.py'
model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_feature=dict(gradient_shares=dict(bcd=0.2, scd=0.6, wcd=0.2))
        )
    )
)
