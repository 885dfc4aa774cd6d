# Not stated for this pair and data: numbers of r32x4_shv2 on CIFAR-100.
_base_ = ['../_base_/tasks/r32x4_shv2_tinyimagenet.py', '../_base_/methods/reviewkd.py']
_base_.distiller.distill_losses.loss_review.update(loss_weight=8.0)
_base_.distiller.connectors.fusion.update(out_sizes=[32, 16, 8, None])
model = dict(distiller=_base_.distiller)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=20))
