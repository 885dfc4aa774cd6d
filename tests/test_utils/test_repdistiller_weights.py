"""The names of the parts of a file; ``test_from_repdistiller`` has every net's."""

import pytest

from cakd_mm.utils import convert_repdistiller_state_dict

# The names that tell the four kinds of nets apart, and some of each rule.
RESIDUAL = {
    'conv1.weight': 'backbone.conv1.weight',
    'layer3.11.bn2.num_batches_tracked': 'backbone.stage3.11.bn2.num_batches_tracked',
    'fc.bias': 'head.fc.bias',
}
SHUFFLE = {
    'conv1.weight': 'backbone.conv1.weight',
    'layer1.0.conv5.weight': 'backbone.stage1.0.conv5.weight',
    'linear.bias': 'head.fc.bias',
}
WIDE = {
    'conv1.weight': 'backbone.conv1.weight',
    'block1.layer.0.bn1.weight': 'backbone.stage1_sum.0.bn1.weight',
    'block2.layer.0.bn1.weight': 'backbone.stage1_pre.weight',
    'block3.layer.0.bn1.bias': 'backbone.stage2_pre.bias',
    'block3.layer.10.conv2.weight': 'backbone.stage3_sum.10.conv2.weight',
    'fc.bias': 'head.fc.bias',
}
MOBILE = {
    'model.0.0.weight': 'backbone.conv1.weight',
    'model.13.4.num_batches_tracked': 'backbone.stage4.1.bn2.num_batches_tracked',
    'fc.weight': 'head.fc.weight',
}
KINDS = dict(residual=RESIDUAL, shuffle=SHUFFLE, wide=WIDE, mobile=MOBILE)


@pytest.mark.parametrize('prefix', ['', 'module.', 'student.', 'module.student.'])
@pytest.mark.parametrize('kind', KINDS)
def test_every_name_and_what_lies_under_it(kind, prefix):
    names = KINDS[kind]
    values = {prefix + theirs: object() for theirs in names}
    kept = dict(values)
    found = convert_repdistiller_state_dict(values)
    assert found == {ours: values[prefix + theirs] for theirs, ours in names.items()}
    assert values == kept  # the caller's is left alone
    assert list(found) == list(names.values())


@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize(
    ('part', 'kind'), [('student', 'shuffle'), ('teacher', 'wide')]
)
def test_a_net_of_a_distiller(prefix, part, kind):
    both = {f'{prefix}student.{name}': f'student {name}' for name in SHUFFLE}
    both |= {f'{prefix}teacher.{name}': f'teacher {name}' for name in WIDE}
    both |= {f'{prefix}abfs.0.conv1.0.weight': 'of the method'}
    found = convert_repdistiller_state_dict(both, part)
    names = KINDS[kind].items()
    assert found == {ours: f'{part} {theirs}' for theirs, ours in names}
    if part == 'student':
        assert convert_repdistiller_state_dict(both) == found


@pytest.mark.parametrize(
    ('part', 'other'), [('student', 'teacher'), ('teacher', 'student')]
)
def test_an_absent_part_is_named(part, other):
    weights = {f'module.{other}.{name}': 0 for name in RESIDUAL}
    with pytest.raises(ValueError, match=f"`part` = '{part}': .*has no such net"):
        convert_repdistiller_state_dict(weights, part)


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        ('residual', 'features.0.weight'),
        ('residual', 'layer4.0.conv1.weight'),
        ('residual', 'block2.layer.0.conv1.weight'),
        ('residual', 'fc.running_mean'),
        ('residual', 'fc.weight_v'),
        ('residual', 'my.conv1.weight'),
        ('residual', 'conv3.weight'),
        ('wide', 'layer1.0.conv1.weight'),
        ('wide', 'block4.layer.0.conv1.weight'),
        ('wide', 'bn2.weight'),
        ('mobile', 'model.14.0.weight'),
        ('mobile', 'model.3.2.weight'),
        ('mobile', 'conv1.weight'),
    ],
)
def test_an_unknown_name_is_refused(kind, name):
    weights = {**dict.fromkeys(KINDS[kind], 0), name: 0}
    with pytest.raises(ValueError, match=f"`state_dict` = '{name}': .*ShuffleV2"):
        convert_repdistiller_state_dict(weights)
