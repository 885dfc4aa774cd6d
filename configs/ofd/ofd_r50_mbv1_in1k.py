_base_ = ['../_base_/tasks/r50_mbv1_in1k.py', '../_base_/methods/ofd_in1k.py']
_base_.distiller.distill_losses.loss_ofd.update(loss_weight=0.0001)
model = dict(distiller=_base_.distiller)
