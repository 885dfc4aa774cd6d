# The nets for ImageNet have four stages, of which OFD takes the last three.
_base_ = './ofd.py'

features = {f'level{i}': dict(source=f'stage{i + 1}_pre') for i in (1, 2, 3)}
norms = {
    f'{name}{i}': dict(source=f'stage{i + 1}_norm.{name}')
    for name in ('weight', 'bias')
    for i in (1, 2, 3)
}
distiller = dict(
    student_recorders=features, teacher_recorders=dict(**features, **norms)
)
del features, norms
