from .cakd_feature_loss import CAKDFeatureLoss
from .cakd_logit_loss import CAKDLogitLoss
from .feature_kl_loss import FeatureKLLoss
from .feature_squared_loss import FeatureSquaredLoss

__all__ = [
    'CAKDFeatureLoss',
    'CAKDLogitLoss',
    'FeatureKLLoss',
    'FeatureSquaredLoss',
]
