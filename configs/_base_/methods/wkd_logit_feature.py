# WKD-L and WKD-F together, arXiv 2412.08139. WKD-F compares the last maps, those that
# the classifier averages.
_base_ = './wkd_logit.py'

distiller = dict(
    student_recorders=dict(map=dict(type='Tap', source='stage3')),
    teacher_recorders=dict(map=dict(type='Tap', source='stage3')),
    connectors=dict(
        map=dict(
            type='MapConnector', norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')
        )
    ),
    distill_losses=dict(
        loss_feature=dict(type='WKDFeatureLoss', mean_weight=2.0, loss_weight=0.02)
    ),
    loss_forward_mappings=dict(
        loss_feature=dict(
            preds_S=dict(recorder=['map'], from_student=True, connector=['map']),
            preds_T=dict(recorder=['map'], from_student=False),
        )
    ),
)
