# NKD with logit standardisation, which is of arXiv 2403.01427.
_base_ = './nkd.py'

distiller = dict(
    distill_losses=dict(loss_nkd=dict(tau=2.0, loss_weight=9.0, standardize=True))
)
