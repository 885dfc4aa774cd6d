from .cakd_feature_loss import CAKDFeatureLoss
from .cakd_logit_loss import CAKDLogitLoss
from .cmkd_loss import CMKDLoss
from .crd_bank_loss import CRDBankLoss
from .ctkd_loss import CTKDLoss
from .dense_loss import DenseLoss
from .dist_logit_loss import DISTLogitLoss
from .dkd_loss import DecoupledKDLoss
from .feature_kl_loss import FeatureKLLoss
from .feature_squared_loss import FeatureSquaredLoss
from .hard_label_loss import HardLabelLoss
from .hcl_loss import HCLLoss
from .kd_loss import KDLoss
from .ldrld_loss import LDRLDLoss
from .level_loss import LevelLoss
from .mlkd_loss import MLKDLoss
from .nkd_loss import NKDLoss
from .norm_loss import NORMLoss
from .ofd_loss import OFDFeatureLoss
from .sigmoid_kd_loss import SigmoidKDLoss
from .wkd_feature_loss import WKDFeatureLoss
from .wkd_logit_loss import WKDLogitLoss
from .wttm_loss import WTTMLoss

__all__ = [
    'CAKDFeatureLoss',
    'CAKDLogitLoss',
    'CMKDLoss',
    'CRDBankLoss',
    'CTKDLoss',
    'DISTLogitLoss',
    'DecoupledKDLoss',
    'DenseLoss',
    'FeatureKLLoss',
    'FeatureSquaredLoss',
    'HCLLoss',
    'HardLabelLoss',
    'KDLoss',
    'LDRLDLoss',
    'LevelLoss',
    'MLKDLoss',
    'NKDLoss',
    'NORMLoss',
    'OFDFeatureLoss',
    'SigmoidKDLoss',
    'WKDFeatureLoss',
    'WKDLogitLoss',
    'WTTMLoss',
]
