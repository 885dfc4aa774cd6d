# What every method between logits begins with. The outputs of a whole head are tapped,
# so that any kind of head will do; labels are what the student's own loss is given.
distiller = dict(
    type='StrictDistiller',
    student_recorders=dict(
        logits=dict(type='ModuleOutputs', source='head'),
        gt_labels=dict(type='ModuleInputs', source='head.loss_module'),
    ),
    teacher_recorders=dict(logits=dict(type='ModuleOutputs', source='head')),
)
