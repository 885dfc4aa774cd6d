# CAKD on the five maps of an FPN, with clusters of channels at each position. The paper
# has no such experiment: the numbers are those of its features.
_base_ = './fpn.py'
levels = [f'fpn{i}' for i in range(5)]

distiller = dict(
    distill_losses=dict(
        loss_fpn=dict(
            type='LevelLoss',
            loss=dict(
                type='CAKDFeatureLoss',
                tau=4.0,
                alpha=1.0,
                beta=8.0,
                gamma=2.0,
                granularity='channel',
                standardize=True,
            ),
        )
    ),
    loss_forward_mappings=dict(
        loss_fpn=dict(
            preds_S=dict(recorder=levels, from_student=True),
            preds_T=dict(recorder=levels, from_student=False),
        )
    ),
)
del levels
