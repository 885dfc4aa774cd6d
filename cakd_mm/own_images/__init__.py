"""One's own images: from a folder of class folders to a distilled student."""

from .command import Run, distill
from .options import Options

__all__ = ['Options', 'Run', 'distill']
