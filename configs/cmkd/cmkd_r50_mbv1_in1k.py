_base_ = ['../_base_/tasks/r50_mbv1_in1k.py', '../_base_/methods/cmkd.py']
_base_.distiller.distill_losses.loss_cmkd.update(alpha=1.0, beta=1.0)
model = dict(distiller=_base_.distiller)
