# CWD, arXiv 2011.13256, between the score maps of segmentors: MMRazor's own loss.
_base_ = './logits.py'

distiller = dict(
    distill_losses=dict(
        loss_cwd=dict(type='ChannelWiseDivergence', tau=1.0, loss_weight=5.0)
    ),
    loss_forward_mappings=dict(
        loss_cwd=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
        )
    ),
)
