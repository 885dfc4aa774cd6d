# What every method between logits begins with. Taps go by what they mean, so that any
# kind of net will do; labels are what the student's own loss is given.
distiller = dict(
    type='StrictDistiller',
    student_recorders=dict(
        logits=dict(type='Tap', source='logits'),
        gt_labels=dict(type='Tap', source='loss_inputs'),
    ),
    teacher_recorders=dict(logits=dict(type='Tap', source='logits')),
)
