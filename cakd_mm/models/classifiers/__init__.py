from .hugging_face import HuggingFaceBackbone, HuggingFaceConfigClassifier
from .torchvision import TorchvisionClassifier

__all__ = [
    'HuggingFaceBackbone',
    'HuggingFaceConfigClassifier',
    'TorchvisionClassifier',
]
