# Not stated for this pair and data: numbers of r50_mbv1.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/in1k.py',
    '../_base_/schedules/in1k.py',
    '../_base_/pairs/r34_r18_in1k.py',
    '../_base_/methods/ofd_in1k.py',
]
_base_.distiller.distill_losses.loss_ofd.update(loss_weight=0.0001)
model = dict(distiller=_base_.distiller)
