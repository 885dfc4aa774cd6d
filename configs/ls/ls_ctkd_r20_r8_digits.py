# resnet56 -> resnet20's numbers.
_base_ = ['../_base_/tasks/r20_r8_digits_30e.py', '../_base_/methods/ls_ctkd.py']
_base_.distiller.distill_losses.loss_ctkd.update(
    t_start=2.0, t_end=40.0, epochs=10, loss_weight=9.0
)
model = dict(distiller=_base_.distiller, student_loss_weight=0.1)
