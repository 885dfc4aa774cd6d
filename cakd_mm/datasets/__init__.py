from .decoded_images import DecodedImages
from .digits import Digits
from .label_batch import LabelBatch
from .resident_dataset import ResidentDataset
from .seeded_dataset import SeededDataset
from .tiny_imagenet import TinyImageNet

__all__ = [
    'DecodedImages',
    'Digits',
    'LabelBatch',
    'ResidentDataset',
    'SeededDataset',
    'TinyImageNet',
]
