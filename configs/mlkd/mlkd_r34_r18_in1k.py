_base_ = [
    '../_base_/tasks/r34_r18_in1k.py',
    '../_base_/methods/mlkd.py',
    '../_base_/views/in1k.py',
]
_base_.distiller.distill_losses.loss_mlkd.update(tau=1.0, loss_weight=0.5)
model = dict(distiller=_base_.distiller, student_loss_weight=1.0)
train_dataloader = dict(dataset=dict(pipeline=_base_.two_views))
