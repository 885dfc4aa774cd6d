from .images import cut, normalize
from .library import BuildError, available

__all__ = [
    'BuildError',
    'available',
    'cut',
    'normalize',
]
