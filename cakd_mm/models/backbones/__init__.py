from .cifar_resnet import CIFARResNet
from .mobilenet_v1 import MobileNetV1
from .shufflenet_v1 import CIFARShuffleNetV1
from .shufflenet_v2 import CIFARShuffleNetV2
from .wide_resnet import CIFARWideResNet

__all__ = [
    'CIFARResNet',
    'CIFARShuffleNetV1',
    'CIFARShuffleNetV2',
    'CIFARWideResNet',
    'MobileNetV1',
]
