# The control of 3-classes-b8: the label and two random classes are strong.
_base_ = './cifar10-mini_logit-single_3-classes-b8.py'
model = dict(
    distiller=dict(
        distill_losses=dict(loss_cakd=dict(scorer=dict(type='RandomScorer')))
    )
)
