_base_ = '../../r56_r20_tinyimagenet.py'

model = dict(distiller=dict(balancer=dict(ratio=5.0)))
