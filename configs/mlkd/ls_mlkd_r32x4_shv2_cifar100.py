_base_ = [
    '../_base_/tasks/r32x4_shv2_cifar100.py',
    '../_base_/methods/mlkd.py',
    '../_base_/views/cifar.py',
]
_base_.distiller.distill_losses.loss_mlkd.update(
    tau=2.0, loss_weight=6.0, standardize=True
)
model = dict(distiller=_base_.distiller, student_loss_weight=0.2)
train_dataloader = dict(dataset=dict(pipeline=_base_.two_views))
