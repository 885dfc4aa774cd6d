_base_ = ['../_base_/tasks/r34_r18_in1k.py', '../_base_/methods/ctkd.py']
_base_.distiller.distill_losses.loss_ctkd.update(epochs=5, loss_weight=1.0)
model = dict(distiller=_base_.distiller)
