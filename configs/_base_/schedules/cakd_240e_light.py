# For ShuffleNets and MobileNets, which the benchmarks train at a fifth of the rate.
_base_ = './cakd_240e.py'

optim_wrapper = dict(optimizer=dict(lr=0.01))
