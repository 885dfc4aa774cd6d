# As many classes are strong as hold four fifths of the teacher's probability at tau.
_base_ = './cifar10-mini_logit-single_network.py'
model = dict(
    distiller=dict(distill_losses=dict(loss_cakd=dict(strong_mass=0.8, beta=2.0)))
)
