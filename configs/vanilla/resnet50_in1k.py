_base_ = ['../_base_/tasks/in1k.py', 'mmpretrain::_base_/models/resnet50.py']
