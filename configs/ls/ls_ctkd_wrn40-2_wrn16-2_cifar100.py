_base_ = ['../_base_/tasks/wrn40-2_wrn16-2_cifar100.py', '../_base_/methods/ls_ctkd.py']
_base_.distiller.distill_losses.loss_ctkd.update(
    t_start=2.0, t_end=40.0, epochs=10, loss_weight=9.0
)
model = dict(distiller=_base_.distiller, student_loss_weight=0.1)
