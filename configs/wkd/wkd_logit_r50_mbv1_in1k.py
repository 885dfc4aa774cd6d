_base_ = ['../_base_/tasks/r50_mbv1_in1k.py', '../_base_/methods/wkd_logit.py']
_base_.distiller.distill_losses.loss_wkd.update(
    tau=2.0, gamma=25.0, sharpness=2.0, decay_from=0, decay_to=100
)
model = dict(distiller=_base_.distiller)
