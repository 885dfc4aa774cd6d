# What every method between the five maps of an FPN begins with. The FPNs of a pair are
# as wide as each other, so there are no connectors.
_base_ = './logits.py'
taps = {f'fpn{i}': dict(type='Tap', source=f'fpn{i}') for i in range(5)}

distiller = dict(student_recorders=taps, teacher_recorders=taps)
del taps
