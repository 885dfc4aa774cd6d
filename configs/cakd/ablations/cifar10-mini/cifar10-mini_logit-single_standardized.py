# Logit standardisation (arXiv 2403.01427), with the temperature and the factor 18 that
# its public code uses for DKD on resnet56 -> resnet20.
_base_ = './cifar10-mini_logit-single_network.py'
model = dict(
    distiller=dict(
        distill_losses=dict(loss_cakd=dict(standardize=True, tau=3.0, loss_weight=18.0))
    )
)
