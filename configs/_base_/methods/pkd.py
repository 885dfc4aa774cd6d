# PKD, arXiv 2207.02039, between the first four maps of FPNs: MMRazor's own loss, which
# adds those of a list.
_base_ = './fpn.py'
levels = [f'fpn{i}' for i in range(4)]

distiller = dict(
    distill_losses=dict(loss_pkd=dict(type='PKDLoss', loss_weight=6.0)),
    loss_forward_mappings=dict(
        loss_pkd=dict(
            preds_S=dict(recorder=levels, from_student=True),
            preds_T=dict(recorder=levels, from_student=False),
        )
    ),
)
del levels
