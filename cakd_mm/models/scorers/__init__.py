from .activation_scorer import ActivationScorer
from .base_scorer import BaseScorer
from .class_scorer import ClassScorer
from .classifier_scorer import ClassifierScorer
from .random_scorer import RandomScorer
from .scoring_network import ScoringNetwork

__all__ = [
    'ActivationScorer',
    'BaseScorer',
    'ClassScorer',
    'ClassifierScorer',
    'RandomScorer',
    'ScoringNetwork',
]
