# S has 19 times the weight of W, in place of 4 times; their sum is the same.
_base_ = './cifar10-mini_logit-single_network.py'
model = dict(
    distiller=dict(
        distill_losses=dict(loss_feature=dict(beta=9.5, gamma=0.5)),
    )
)
