# WKD-L and WKD-F together, arXiv 2412.08139; see wkd_logit.py and wkd_feature.py.
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
        head_weight=dict(type='TapParameter', source='classifier.weight'),
    ),
    connectors=dict(
        map=dict(
            type='MapConnector', norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')
        )
    ),
    distill_losses=dict(
        loss_wkd=dict(type='WKDLogitLoss', tau=2.0, gamma=10.0),
        loss_feature=dict(type='WKDFeatureLoss', mean_weight=2.0, loss_weight=0.02),
    ),
    loss_forward_mappings=dict(
        loss_wkd=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
            gt_labels=dict(recorder='gt_labels', from_student=True, data_idx=1),
            head_weight=dict(recorder='head_weight', from_student=False),
        ),
        loss_feature=dict(
            preds_S=dict(recorder=['map'], from_student=True, connector=['map']),
            preds_T=dict(recorder=['map'], from_student=False),
        ),
    ),
)
