from .cifar_resnet import CIFARResNet
from .shufflenet_v1 import CIFARShuffleNetV1
from .wide_resnet import CIFARWideResNet

__all__ = ['CIFARResNet', 'CIFARShuffleNetV1', 'CIFARWideResNet']
