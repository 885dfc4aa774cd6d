from .decoded_images import DecodedImages
from .digits import Digits
from .seeded_dataset import SeededDataset
from .tiny_imagenet import TinyImageNet

__all__ = ['DecodedImages', 'Digits', 'SeededDataset', 'TinyImageNet']
