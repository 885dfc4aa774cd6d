from .loss_ratio_balancer import LossRatioBalancer
from .strict_distiller import StrictDistiller

__all__ = ['LossRatioBalancer', 'StrictDistiller']
