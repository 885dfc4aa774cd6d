import pytest

from cakd_mm.utils import convert_repdistiller_state_dict

# The names that tell the three kinds of nets apart, and a pair of each rule.
RESIDUAL = {
    'conv1.weight': 'backbone.conv1.weight',
    'bn1.running_var': 'backbone.bn1.running_var',
    'layer2.0.downsample.0.weight': 'backbone.stage2.0.downsample.0.weight',
    'layer3.11.bn2.num_batches_tracked': 'backbone.stage3.11.bn2.num_batches_tracked',
    'fc.weight': 'head.fc.weight',
    'fc.bias': 'head.fc.bias',
}
SHUFFLE = {
    'conv1.weight': 'backbone.conv1.weight',
    'conv2.weight': 'backbone.conv2.weight',
    'bn2.bias': 'backbone.bn2.bias',
    'layer1.0.conv5.weight': 'backbone.stage1.0.conv5.weight',
    'linear.weight': 'head.fc.weight',
    'linear.bias': 'head.fc.bias',
}
WIDE = {
    'conv1.weight': 'backbone.conv1.weight',
    'block1.layer.0.bn1.weight': 'backbone.stage1_sum.0.bn1.weight',
    'block2.layer.0.bn1.weight': 'backbone.stage1_pre.weight',
    'block3.layer.0.bn1.bias': 'backbone.stage2_pre.bias',
    'bn1.running_mean': 'backbone.stage3_pre.running_mean',
    'block2.layer.1.bn1.weight': 'backbone.stage2_sum.1.bn1.weight',
    'block3.layer.0.bn2.weight': 'backbone.stage3_sum.0.bn2.weight',
    'block3.layer.0.convShortcut.weight': 'backbone.stage3_sum.0.shortcut.weight',
    'block3.layer.10.conv2.weight': 'backbone.stage3_sum.10.conv2.weight',
    'fc.bias': 'head.fc.bias',
}
MOBILE = {
    'model.0.0.weight': 'backbone.conv1.weight',
    'model.0.1.bias': 'backbone.bn1.bias',
    'model.1.0.weight': 'backbone.stage1.0.conv1.weight',
    'model.3.4.running_var': 'backbone.stage1.2.bn2.running_var',
    'model.4.1.weight': 'backbone.stage2.0.bn1.weight',
    'model.6.3.weight': 'backbone.stage3.0.conv2.weight',
    'model.12.0.weight': 'backbone.stage4.0.conv1.weight',
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
