from .library import BuildError, available
from .losses import cluster_sums, clusters, single_label, strongest

__all__ = [
    'BuildError',
    'available',
    'cluster_sums',
    'clusters',
    'single_label',
    'strongest',
]
