# CAKD on the logits and on the outputs of the last two stages ("logit & double
# features"). The penultimate vector is the last stage's, pooled.
_base_ = './cakd_logit_feature.py'

second = _base_.distiller.distill_losses.loss_feature.copy()
distiller = dict(
    student_recorders=dict(second=dict(type='Tap', source='stage2')),
    teacher_recorders=dict(second=dict(type='Tap', source='stage2')),
    connectors=dict(second=dict(type='PooledConnector')),
    distill_losses=dict(loss_second=second),
    loss_forward_mappings=dict(
        loss_second=dict(
            preds_S=dict(recorder='second', from_student=True, connector='second'),
            preds_T=dict(recorder='second', from_student=False),
            gt_labels=dict(recorder='gt_labels', from_student=True, data_idx=1),
        )
    ),
    balancer=dict(losses=['loss_feature', 'loss_second']),
)
del second
