from .cakd_feature_loss import CAKDFeatureLoss
from .cakd_logit_loss import CAKDLogitLoss
from .cmkd_loss import CMKDLoss
from .crd_bank_loss import CRDBankLoss
from .ctkd_loss import CTKDLoss
from .dkd_loss import DecoupledKDLoss
from .feature_kl_loss import FeatureKLLoss
from .feature_squared_loss import FeatureSquaredLoss
from .hard_label_loss import HardLabelLoss
from .hcl_loss import HCLLoss
from .mlkd_loss import MLKDLoss
from .nkd_loss import NKDLoss
from .ofd_loss import OFDFeatureLoss
from .sigmoid_kd_loss import SigmoidKDLoss

__all__ = [
    'CAKDFeatureLoss',
    'CAKDLogitLoss',
    'CMKDLoss',
    'CRDBankLoss',
    'CTKDLoss',
    'DecoupledKDLoss',
    'FeatureKLLoss',
    'FeatureSquaredLoss',
    'HCLLoss',
    'HardLabelLoss',
    'MLKDLoss',
    'NKDLoss',
    'OFDFeatureLoss',
    'SigmoidKDLoss',
]
