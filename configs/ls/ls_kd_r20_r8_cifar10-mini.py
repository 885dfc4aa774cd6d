# resnet56 -> resnet20's numbers.
_base_ = ['../_base_/tasks/r20_r8_cifar10-mini.py', '../_base_/methods/ls_kd.py']
_base_.distiller.distill_losses.loss_kd.update(tau=2.0, loss_weight=9.0)
model = dict(distiller=_base_.distiller, student_loss_weight=0.1)
