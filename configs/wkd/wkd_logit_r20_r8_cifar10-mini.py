# resnet56 -> resnet20's numbers, epochs of the decay an eighth.
_base_ = ['../_base_/tasks/r20_r8_cifar10-mini.py', '../_base_/methods/wkd_logit.py']
_base_.distiller.distill_losses.loss_wkd.update(
    tau=8.0, gamma=600.0, decay_from=19, decay_to=30
)
model = dict(distiller=_base_.distiller)
