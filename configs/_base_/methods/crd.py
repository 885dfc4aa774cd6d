# CRD, arXiv 1910.10699, between the inputs of the classifiers. Its banks hold every
# image of the training set; SampleIndexHook tells which ones a batch is of.
_base_ = './logits.py'

distiller = dict(
    student_recorders=dict(pooled=dict(type='Tap', source='pooled')),
    teacher_recorders=dict(pooled=dict(type='Tap', source='pooled')),
    distill_losses=dict(loss_crd=dict(type='CRDBankLoss', loss_weight=0.8)),
    loss_forward_mappings=dict(
        loss_crd=dict(
            preds_S=dict(recorder='pooled', from_student=True),
            preds_T=dict(recorder='pooled', from_student=False),
        )
    ),
)
