"""Taps: where a net's scores, vectors, maps and tokens are, by what they mean."""

from .dry_run import DryRun, dry_run, forget_dry_run
from .known_nets import teach_token_apart
from .point import Point
from .points import NAMES, find_point, owner_of, points_of
from .scores import (
    classes_key,
    classes_of,
    classifier_of,
    count_name,
    gives_scores,
)

__all__ = [
    'NAMES',
    'DryRun',
    'Point',
    'classes_key',
    'classes_of',
    'classifier_of',
    'count_name',
    'dry_run',
    'find_point',
    'forget_dry_run',
    'gives_scores',
    'owner_of',
    'points_of',
    'teach_token_apart',
]
