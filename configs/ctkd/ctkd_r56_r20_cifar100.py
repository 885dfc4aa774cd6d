_base_ = ['../_base_/tasks/r56_r20_cifar100.py', '../_base_/methods/ctkd.py']
_base_.distiller.distill_losses.loss_ctkd.update(epochs=10, loss_weight=0.9)
model = dict(distiller=_base_.distiller, student_loss_weight=0.1)
