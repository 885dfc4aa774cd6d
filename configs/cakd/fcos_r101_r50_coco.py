_base_ = ['../_base_/tasks/fcos_r101_r50_coco.py', '../_base_/methods/cakd_fpn.py']
model = dict(distiller=_base_.distiller)
