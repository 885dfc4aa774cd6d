"""The maths of every method: tensors in, tensors out."""

from .cakd import (
    DecoupledKL,
    Divergences,
    batch_mean,
    decoupled_kl,
    decoupled_kl_and_mass,
    single_label_kl,
    single_label_kl_and_terms,
    weighted_kl,
)
from .cmkd import pearson_distance, spearman_distance
from .nkd import normalized_kd

__all__ = [
    'DecoupledKL',
    'Divergences',
    'batch_mean',
    'decoupled_kl',
    'decoupled_kl_and_mass',
    'normalized_kd',
    'pearson_distance',
    'single_label_kl',
    'single_label_kl_and_terms',
    'spearman_distance',
    'weighted_kl',
]
