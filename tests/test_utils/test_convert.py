import pytest
import torch
from reference_nets import filled
from tiny import build

from cakd_mm.utils.convert import Arch, find_arch, write_classifier

ARCHS = {
    'tiny': Arch(dict(type='CIFARResNet', depth=8, widths=(4, 4, 6, 8)), 8),
    'wider': Arch(dict(type='CIFARResNet', depth=8, widths=(4, 4, 6, 10)), 10),
    'deeper': Arch(dict(type='CIFARResNet', depth=14, widths=(4, 4, 6, 8)), 8),
}


def weights(classes=5, name='tiny'):
    arch = ARCHS[name]
    model = build(
        dict(
            type='ImageClassifier',
            backbone=arch.backbone,
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='LinearClsHead', num_classes=classes, in_channels=arch.width
            ),
        )
    )
    return filled({name: tuple(v.shape) for name, v in model.state_dict().items()})


@pytest.mark.parametrize('num_classes', [None, 5])
def test_the_checkpoint_holds_the_weights_and_where_they_are_from(
    tmp_path, num_classes
):
    out = tmp_path / 'new' / 'folder' / 'out.pth'
    given = weights()
    write_classifier(given, 'tiny', ARCHS, out, 'somewhere', num_classes)
    saved = torch.load(out, weights_only=True)
    assert saved.keys() == {'meta', 'state_dict'}
    assert saved['meta'] == dict(arch='tiny', source='somewhere')
    assert list(saved['state_dict']) == list(given)
    assert all(torch.equal(saved['state_dict'][k], v) for k, v in given.items())


@pytest.mark.parametrize(
    ('name', 'num_classes', 'change', 'problems'),
    [
        (
            *('wider', None, {}),
            [
                r'backbone.stage3.0.bn1.bias is \(8,\) in the file, '
                r'\(10,\) in the model',
            ],
        ),
        ('deeper', None, {}, [r'36 missing keys \(backbone.stage1.1.bn1.bias, ']),
        (
            *('tiny', 7, {}),
            [
                r'head.fc.bias is \(5,\) in the file, \(7,\) in the model',
                r'head.fc.weight is \(5, 8\) in the file, \(7, 8\) in the model',
                'scores 5 classes, the config asks for 7',
            ],
        ),
        ('tiny', None, {'head.fc.bias': None}, [r'1 missing keys \(head.fc.bias\)']),
        ('tiny', None, {'x': torch.ones(1)}, [r'1 unexpected keys \(x\)']),
    ],
)
def test_what_does_not_fit_is_refused_with_both_shapes(
    tmp_path, name, num_classes, change, problems
):
    given = {k: v for k, v in {**weights(), **change}.items() if v is not None}
    out = tmp_path / 'folder' / 'out.pth'
    for problem in problems:
        match = f"`--arch` = '{name}': .*{problem}.*Name the net, and the number of"
        with pytest.raises(ValueError, match=match):
            write_classifier(given, name, ARCHS, out, 'somewhere', num_classes)
    assert not out.parent.exists()


def test_an_unknown_net_is_named_with_the_nearest(tmp_path):
    assert find_arch('tiny', ARCHS) is ARCHS['tiny']
    with pytest.raises(ValueError, match="`--arch` = 'tinny': .*one of these: .*tiny"):
        find_arch('tinny', ARCHS)
    with pytest.raises(ValueError, match="`--arch` = 'tinny'"):
        write_classifier(weights(), 'tinny', ARCHS, tmp_path / 'out.pth', 'somewhere')
