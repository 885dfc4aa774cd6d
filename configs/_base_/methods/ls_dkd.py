# DKD with logit standardisation, arXiv 2403.01427.
_base_ = './dkd.py'

distiller = dict(
    distill_losses=dict(loss_dkd=dict(tau=2.0, alpha=9.0, beta=72.0, standardize=True))
)
