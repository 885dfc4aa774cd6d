# WKD-F, arXiv 2412.08139, between the last maps, those that the classifier averages.
distiller = dict(
    type='StrictDistiller',
    student_recorders=dict(
        logits=dict(type='Tap', source='logits'),
        map=dict(type='Tap', source='stage3'),
        gt_labels=dict(type='Tap', source='loss_inputs'),
    ),
    teacher_recorders=dict(
        logits=dict(type='Tap', source='logits'),
        map=dict(type='Tap', source='stage3'),
    ),
    connectors=dict(
        map=dict(
            type='MapConnector', norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')
        )
    ),
    distill_losses=dict(
        loss_wkd=dict(type='WKDFeatureLoss', mean_weight=2.0, loss_weight=0.02)
    ),
    loss_forward_mappings=dict(
        loss_wkd=dict(
            preds_S=dict(recorder=['map'], from_student=True, connector=['map']),
            preds_T=dict(recorder=['map'], from_student=False),
        )
    ),
)
