# Not stated for this pair and data: numbers of r56_r20.
_base_ = ['../_base_/tasks/r32x4_r8x4_cifar100.py', '../_base_/methods/ctkd.py']
_base_.distiller.distill_losses.loss_ctkd.update(epochs=10, loss_weight=0.9)
model = dict(distiller=_base_.distiller, student_loss_weight=0.1)
