# OFD, arXiv 1904.01866, before the last activation of three stages. The margins come
# from the teacher's layers that normalise there.
levels, weights, biases = (
    [f'{name}{level}' for level in (1, 2, 3)] for name in ('level', 'weight', 'bias')
)
features = {f'level{i}': dict(type='Tap', source=f'stage{i}_pre') for i in (1, 2, 3)}
norms = {
    f'{name}{i}': dict(type='TapParameter', source=f'stage{i}_norm.{name}')
    for name in ('weight', 'bias')
    for i in (1, 2, 3)
}
logits = dict(logits=dict(type='Tap', source='logits'))
labels = dict(gt_labels=dict(type='Tap', source='loss_inputs'))
distiller = dict(
    type='StrictDistiller',
    student_recorders=dict(**logits, **labels, **features),
    teacher_recorders=dict(**logits, **features, **norms),
    connectors={
        level: dict(type='MapConnector', norm_cfg=dict(type='BN')) for level in levels
    },
    distill_losses=dict(loss_ofd=dict(type='OFDFeatureLoss', loss_weight=1e-3)),
    loss_forward_mappings=dict(
        loss_ofd=dict(
            preds_S=dict(recorder=levels, from_student=True, connector=levels),
            preds_T=dict(recorder=levels, from_student=False),
            bn_weights=dict(recorder=weights, from_student=False),
            bn_biases=dict(recorder=biases, from_student=False),
        )
    ),
)
del levels, weights, biases, features, norms, logits, labels
