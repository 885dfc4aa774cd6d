# The control of mass80: clusters as large, of random classes beside the label.
_base_ = './cifar10-mini_logit-single_mass80.py'
model = dict(
    distiller=dict(
        distill_losses=dict(loss_cakd=dict(scorer=dict(type='RandomScorer')))
    )
)
