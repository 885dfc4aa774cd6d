# DeiT, arXiv 2012.12877, Eq. 3: the teacher's decisions teach the distillation token,
# the labels the class token. The student is a DistilledVisionTransformer with a
# DeiTClsHead; student_loss_weight=0.5 of the model weighs the labels.
_base_ = './logits.py'

distiller = dict(
    student_recorders=dict(token=dict(type='Tap', source='token_logits')),
    distill_losses=dict(loss_deit=dict(type='HardLabelLoss', loss_weight=0.5)),
    loss_forward_mappings=dict(
        loss_deit=dict(
            preds_S=dict(recorder='token', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
        )
    ),
)
