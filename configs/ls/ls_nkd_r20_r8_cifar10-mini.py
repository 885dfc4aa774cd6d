# Not published: NKD's gamma of resnet56 -> resnet20, and the temperature and weight
# of KD with logit standardisation.
_base_ = ['../_base_/tasks/r20_r8_cifar10-mini.py', '../_base_/methods/ls_nkd.py']
_base_.distiller.distill_losses.loss_nkd.update(tau=2.0, gamma=3.5, loss_weight=9.0)
model = dict(distiller=_base_.distiller)
