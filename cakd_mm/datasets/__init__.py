from .brain_slices import BrainSlices
from .decoded_images import DecodedImages
from .digit_scenes import DigitScenes, DigitScenesPixels
from .digits import Digits
from .label_batch import LabelBatch
from .resident_dataset import ResidentDataset
from .seeded_dataset import SeededDataset
from .tiny_imagenet import TinyImageNet

__all__ = [
    'BrainSlices',
    'DecodedImages',
    'DigitScenes',
    'DigitScenesPixels',
    'Digits',
    'LabelBatch',
    'ResidentDataset',
    'SeededDataset',
    'TinyImageNet',
]
