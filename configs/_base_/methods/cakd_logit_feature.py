# CAKD on the logits and on one feature, the classifier's input ("logit & single
# feature"). Widths of connector, scorer and statistics are taken from the nets.
distiller = dict(
    type='StrictDistiller',
    student_recorders=dict(
        logits=dict(type='Tap', source='logits'),
        feature=dict(type='Tap', source='pooled'),
        gt_labels=dict(type='Tap', source='loss_inputs'),
    ),
    teacher_recorders=dict(
        logits=dict(type='Tap', source='logits'),
        feature=dict(type='Tap', source='pooled'),
        head_weight=dict(type='TapParameter', source='classifier.weight'),
        head_bias=dict(type='TapParameter', source='classifier.bias'),
    ),
    connectors=dict(feature=dict(type='PooledConnector')),
    distill_losses=dict(
        loss_cakd=dict(type='CAKDLogitLoss', tau=4.0, alpha=1.0, beta=1.0, gamma=2.0),
        loss_feature=dict(
            type='CAKDFeatureLoss',
            tau=4.0,
            alpha=1.0,
            beta=8.0,
            gamma=2.0,
            strong_share=0.5,
            scorer=dict(type='ScoringNetwork'),
            standardize=True,
        ),
    ),
    loss_forward_mappings=dict(
        loss_cakd=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
            gt_labels=dict(recorder='gt_labels', from_student=True, data_idx=1),
        ),
        loss_feature=dict(
            preds_S=dict(
                recorder='feature', from_student=True, data_idx=0, connector='feature'
            ),
            preds_T=dict(recorder='feature', from_student=False, data_idx=0),
            gt_labels=dict(recorder='gt_labels', from_student=True, data_idx=1),
            head_weight=dict(recorder='head_weight', from_student=False),
            head_bias=dict(recorder='head_bias', from_student=False),
        ),
    ),
    # feature : logit, in value (Table VI).
    balancer=dict(
        type='LossRatioBalancer',
        losses=['loss_feature'],
        reference='loss_cakd',
        ratio=1.0,
    ),
)
