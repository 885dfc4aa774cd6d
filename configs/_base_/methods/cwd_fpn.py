# CWD, arXiv 2011.13256, between the maps of FPNs. MMRazor adds the losses of levels,
# and LevelLoss takes their mean, so that five times as much is the same.
_base_ = './fpn.py'
levels = [f'fpn{i}' for i in range(5)]

distiller = dict(
    distill_losses=dict(
        loss_cwd=dict(
            type='LevelLoss',
            loss=dict(type='ChannelWiseDivergence', tau=1.0, loss_weight=10.0),
            loss_weight=5.0,
        )
    ),
    loss_forward_mappings=dict(
        loss_cwd=dict(
            preds_S=dict(recorder=levels, from_student=True),
            preds_T=dict(recorder=levels, from_student=False),
        )
    ),
)
del levels
