from .digits import Digits
from .seeded_dataset import SeededDataset

__all__ = ['Digits', 'SeededDataset']
