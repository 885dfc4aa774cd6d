_base_ = ['../_base_/tasks/r50_mbv1_in1k.py', '../_base_/methods/kd.py']
_base_.distiller.distill_losses.loss_kd.update(tau=1.0, loss_weight=0.5)
model = dict(distiller=_base_.distiller, student_loss_weight=0.5)
