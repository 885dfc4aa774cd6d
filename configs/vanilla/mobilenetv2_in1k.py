_base_ = ['../_base_/tasks/in1k.py', 'mmpretrain::_base_/models/mobilenet_v2_1x.py']
