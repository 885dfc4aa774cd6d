from .images import cut, normalize
from .library import BuildError, available
from .losses import cluster_sums, clusters, single_label, strongest

__all__ = [
    'BuildError',
    'available',
    'cluster_sums',
    'clusters',
    'cut',
    'normalize',
    'single_label',
    'strongest',
]
