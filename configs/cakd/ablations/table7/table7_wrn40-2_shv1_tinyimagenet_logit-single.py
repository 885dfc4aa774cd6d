# The row is the pair's own config.
_base_ = '../../wrn40-2_shv1_tinyimagenet.py'
