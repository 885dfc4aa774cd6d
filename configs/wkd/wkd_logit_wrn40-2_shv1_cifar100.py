_base_ = ['../_base_/tasks/wrn40-2_shv1_cifar100.py', '../_base_/methods/wkd_logit.py']
_base_.distiller.distill_losses.loss_wkd.update(
    tau=6.0, gamma=200.0, decay_from=150, decay_to=240
)
model = dict(distiller=_base_.distiller)
