# Not stated for this pair and data: numbers of r32x4_r8x4.
_base_ = ['../_base_/tasks/wrn40-2_wrn16-2_tinyimagenet.py', '../_base_/methods/kd.py']
_base_.distiller.distill_losses.loss_kd.update(tau=4.0, loss_weight=0.9)
model = dict(distiller=_base_.distiller, student_loss_weight=0.1)
