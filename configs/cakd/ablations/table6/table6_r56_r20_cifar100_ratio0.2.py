_base_ = '../../r56_r20_cifar100.py'

model = dict(distiller=dict(balancer=dict(ratio=0.2)))
