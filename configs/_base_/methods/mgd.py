# MGD, arXiv 2205.01529, between the maps of FPNs: MMRazor's own loss and connectors,
# which make the teacher's map of a student's map with holes. MMRazor adds its losses of
# the levels, and LevelLoss takes their mean, so that five times as much is the same.
_base_ = './fpn.py'
levels = [f'fpn{i}' for i in range(5)]
connector = dict(
    type='MGDConnector', student_channels=256, teacher_channels=256, lambda_mgd=0.65
)

distiller = dict(
    connectors={f'generate_{level}': connector for level in levels},
    distill_losses=dict(
        loss_mgd=dict(
            type='LevelLoss',
            loss=dict(type='MGDLoss', alpha_mgd=2e-5),
            loss_weight=5.0,
        )
    ),
    loss_forward_mappings=dict(
        loss_mgd=dict(
            preds_S=dict(
                recorder=levels,
                from_student=True,
                connector=[f'generate_{level}' for level in levels],
            ),
            preds_T=dict(recorder=levels, from_student=False),
        )
    ),
)
del levels, connector
