# KD with logit standardisation, arXiv 2403.01427.
_base_ = './kd.py'

distiller = dict(
    distill_losses=dict(
        loss_kd=dict(type='KDLoss', tau=2.0, loss_weight=9.0, standardize=True)
    )
)
