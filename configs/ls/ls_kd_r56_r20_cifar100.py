_base_ = ['../_base_/tasks/r56_r20_cifar100.py', '../_base_/methods/ls_kd.py']
_base_.distiller.distill_losses.loss_kd.update(tau=2.0, loss_weight=9.0)
model = dict(distiller=_base_.distiller, student_loss_weight=0.1)
