# The row is the pair's own config.
_base_ = '../../r56_r20_cifar100.py'
