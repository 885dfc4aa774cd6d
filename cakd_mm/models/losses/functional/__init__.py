"""The maths of every method: tensors in, tensors out.

Values and gradients are finite for inputs up to 1e12 in absolute value and for the
settings that the losses take, see :class:`DistillLoss`. A temperature is from 1e-6 to
1e6.
"""

from .cakd import (
    DecoupledKL,
    Divergences,
    batch_mean,
    cluster_terms,
    decoupled_kl,
    decoupled_kl_and_mass,
    single_label_kl,
    single_label_kl_and_terms,
    weighted_kl,
)
from .cmkd import pearson_distance, spearman_distance
from .ldrld import ranked_pairs_kl
from .nkd import normalized_kd
from .sigmoid_kd import binary_kl

__all__ = [
    'DecoupledKL',
    'Divergences',
    'batch_mean',
    'binary_kl',
    'cluster_terms',
    'decoupled_kl',
    'decoupled_kl_and_mass',
    'normalized_kd',
    'pearson_distance',
    'ranked_pairs_kl',
    'single_label_kl',
    'single_label_kl_and_terms',
    'spearman_distance',
    'weighted_kl',
]
