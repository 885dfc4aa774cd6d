from .cakd_logit_loss import CAKDLogitLoss

__all__ = ['CAKDLogitLoss']
