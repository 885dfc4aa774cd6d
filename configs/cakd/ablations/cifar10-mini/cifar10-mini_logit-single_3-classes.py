# The label and the teacher's two likeliest other classes are strong.
_base_ = './cifar10-mini_logit-single_network.py'
model = dict(
    distiller=dict(distill_losses=dict(loss_cakd=dict(strong_classes=3, beta=2.0)))
)
