import pytest

from cakd_mm.utils.torchvision_weights import convert_torchvision_state_dict


def renamed(*names):
    values = {name: object() for name in names}
    found = convert_torchvision_state_dict(values)
    return {
        name: next(k for k, v in found.items() if v is values[name]) for name in names
    }


@pytest.mark.parametrize(
    ('theirs', 'ours'),
    [
        ('features.0.0.weight', 'backbone.conv1.conv.weight'),
        ('features.0.1.running_mean', 'backbone.conv1.bn.running_mean'),
        # The first block has no expansion.
        ('features.1.conv.0.0.weight', 'backbone.layer1.0.conv.0.conv.weight'),
        ('features.1.conv.0.1.bias', 'backbone.layer1.0.conv.0.bn.bias'),
        ('features.1.conv.1.weight', 'backbone.layer1.0.conv.1.conv.weight'),
        ('features.1.conv.2.weight', 'backbone.layer1.0.conv.1.bn.weight'),
        ('features.2.conv.0.0.weight', 'backbone.layer2.0.conv.0.conv.weight'),
        ('features.2.conv.1.1.weight', 'backbone.layer2.0.conv.1.bn.weight'),
        ('features.2.conv.2.weight', 'backbone.layer2.0.conv.2.conv.weight'),
        ('features.3.conv.3.bias', 'backbone.layer2.1.conv.2.bn.bias'),
        ('features.4.conv.2.weight', 'backbone.layer3.0.conv.2.conv.weight'),
        ('features.10.conv.2.weight', 'backbone.layer4.3.conv.2.conv.weight'),
        ('features.14.conv.2.weight', 'backbone.layer6.0.conv.2.conv.weight'),
        ('features.17.conv.3.weight', 'backbone.layer7.0.conv.2.bn.weight'),
        ('features.18.0.weight', 'backbone.conv2.conv.weight'),
        ('features.18.1.weight', 'backbone.conv2.bn.weight'),
        ('classifier.1.weight', 'head.fc.weight'),
        ('classifier.1.bias', 'head.fc.bias'),
        # Of other nets: left for the strict check to report.
        ('classifier.0.weight', 'classifier.0.weight'),
        ('features.19.0.weight', 'features.19.0.weight'),
        ('features.18.conv.0.0.weight', 'features.18.conv.0.0.weight'),
        ('features.2.conv.4.weight', 'features.2.conv.4.weight'),
        ('features.2.conv.1.weight', 'features.2.conv.1.weight'),
        ('features.1.block.1.fc1.weight', 'features.1.block.1.fc1.weight'),
    ],
)
def test_names_of_mobilenet(theirs, ours):
    assert renamed('features.0.0.weight', theirs)[theirs] == ours
