# CTKD with logit standardisation, arXiv 2403.01427. Its temperatures are those of CTKD
# times the base temperature, 2.
_base_ = './ctkd.py'

distiller = dict(
    distill_losses=dict(
        loss_ctkd=dict(t_start=2.0, t_end=40.0, loss_weight=9.0, standardize=True)
    )
)
