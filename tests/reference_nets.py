"""The nets of RepDistiller and mdistiller, from their own names of weights.

Written with PyTorch's functions alone, from ``../shared/spec/methods.md`` (section 5)
and, for MobileNet, from mdistiller's list of layers; nothing of the package is used.
A forward returns what is at every tap, under our names, and ``logits``.
"""

import json
import re
from zlib import crc32

import numpy as np
import torch
from goldens import FOLDER
from torch.nn import functional as F

# The eight nets whose keys and numbers are given: their names there, ours, the form.
GIVEN = {
    'resnet20': 'resnet20',
    'resnet56': 'resnet56',
    'resnet8x4': 'resnet8x4',
    'resnet32x4': 'resnet32x4',
    'wrn_16_2': 'wrn16-2',
    'wrn_40_2': 'wrn40-2',
    'ShuffleV1': 'shufflenetv1',
    'ShuffleV2': 'shufflenetv2',
}


def facts() -> dict:
    """Return ``nets.json``, or nothing where the reference numbers are absent."""
    path = FOLDER / 'nets.json'
    if not path.is_file():
        return dict(facts={}, state_dict_keys={})
    return json.loads(path.read_text())


def entry(key, shape, seed=0, gain=1.0):
    """Return one entry of the reference's state dict, as its goldens were made."""
    state = np.random.RandomState((crc32(key.encode()) + seed) % 2**32)
    if key.endswith('num_batches_tracked'):
        return np.zeros(())
    noise = state.randn(*shape)
    if key.endswith('running_var'):
        return 0.5 * np.abs(noise) + 0.5
    if key.endswith(('running_mean', 'bias')):
        return 0.05 * noise
    if len(shape) >= 2:
        return gain * noise / np.sqrt(np.prod(shape[1:]))
    return 1 + 0.1 * noise


def filled(shapes, seed=0, gain=1.0):
    """Return a state dict of ``{name: shape}``, filled by name."""
    weights = {}
    for key, shape in shapes.items():
        data = entry(key, tuple(shape), seed, gain)
        kind = np.int64 if key.endswith('num_batches_tracked') else np.float32
        weights[key] = torch.from_numpy(np.asarray(data).astype(kind))
    return weights


def their_name(arch, ours):
    """Return the reference's name of an entry of our classifier."""
    head = 'linear' if arch.startswith('shuffle') else 'fc'
    if ours.startswith('head.fc.'):
        return ours.replace('head.fc', head)
    words = ours.split('.')[1:]
    if arch == 'mobilenetv1':
        return _mobile_name(words)
    found = re.fullmatch(r'stage(\d)(_pre|_sum)?', words[0])
    if not found:
        return '.'.join(words)
    stage, tap = int(found[1]), found[2]
    if not arch.startswith('wrn'):
        return '.'.join([f'layer{stage}', *words[1:]])
    if tap == '_sum':
        words = [w if w != 'shortcut' else 'convShortcut' for w in words[1:]]
        return '.'.join([f'block{stage}', 'layer', *words])
    prefix = 'bn1' if stage == 3 else f'block{stage + 1}.layer.0.bn1'
    return f'{prefix}.{words[-1]}'


def _mobile_name(words):
    layer = {'conv1': 0, 'bn1': 1, 'conv2': 3, 'bn2': 4}
    if len(words) == 2:
        return f'model.0.{layer[words[0]]}.{words[1]}'
    before = {'stage1': 1, 'stage2': 4, 'stage3': 6, 'stage4': 12}[words[0]]
    return f'model.{before + int(words[1])}.{layer[words[2]]}.{words[3]}'


class Net:
    """Layers of a state dict; ``training`` uses and moves the batch's statistics."""

    def __init__(self, weights, training=False):
        self.weights = weights
        self.training = training

    def has(self, name):
        return f'{name}.weight' in self.weights

    def conv(self, name, x, stride=1):
        weight = self.weights[f'{name}.weight']
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)

    def norm(self, name, x):
        mean, var, weight, bias = (
            self.weights[f'{name}.{leaf}']
            for leaf in ('running_mean', 'running_var', 'weight', 'bias')
        )
        return F.batch_norm(x, mean, var, weight, bias, self.training, 0.1, 1e-5)

    def linear(self, name, x):
        return F.linear(x, self.weights[f'{name}.weight'], self.weights[f'{name}.bias'])

    def blocks(self, prefix):
        """Return the prefixes of the blocks of a stage."""
        count = 0
        while any(key.startswith(f'{prefix}.{count}.') for key in self.weights):
            count += 1
        return [f'{prefix}.{i}' for i in range(count)]


def shuffle(x, groups):
    n, channels, *size = x.shape
    x = x.reshape(n, groups, channels // groups, *size)
    return x.transpose(1, 2).reshape(n, channels, *size)


def score(net, taps, x, head):
    """Add the pooled features and the logits to ``taps``."""
    taps['pooled'] = x.mean((2, 3))
    taps['logits'] = net.linear(head, taps['pooled'])
    return taps


def resnet(net, x):
    taps = {}
    x = net.norm('bn1', net.conv('conv1', x)).relu()
    for stage in (1, 2, 3):
        for place, name in enumerate(net.blocks(f'layer{stage}')):
            stride = 2 if stage > 1 and place == 0 else 1
            y = net.norm(f'{name}.bn1', net.conv(f'{name}.conv1', x, stride)).relu()
            y = net.norm(f'{name}.bn2', net.conv(f'{name}.conv2', y))
            if net.has(f'{name}.downsample.0'):
                x = net.conv(f'{name}.downsample.0', x, stride)
                x = net.norm(f'{name}.downsample.1', x)
            total = y + x
            x = total.relu()
        taps[f'stage{stage}_pre'], taps[f'stage{stage}'] = total, x
    return score(net, taps, x, 'fc')


def wide_resnet(net, x):
    """The sum of a stage is the map of the reference; the norm is the next one's."""
    taps = {}
    x = net.conv('conv1', x)
    norms = {2: 'block2.layer.0.bn1', 3: 'block3.layer.0.bn1', 4: 'bn1'}
    for stage in (1, 2, 3):
        for place, name in enumerate(net.blocks(f'block{stage}.layer')):
            stride = 2 if stage > 1 and place == 0 else 1
            active = net.norm(f'{name}.bn1', x).relu()
            if place == 0 and stage > 1:
                taps[f'stage{stage - 1}'] = active
            y = net.conv(f'{name}.conv1', active, stride)
            y = net.conv(f'{name}.conv2', net.norm(f'{name}.bn2', y).relu())
            if net.has(f'{name}.convShortcut'):
                x = net.conv(f'{name}.convShortcut', active, stride)
            x = y + x
        taps[f'stage{stage}_sum'] = x
        if not net.training:
            taps[f'stage{stage}_pre'] = net.norm(norms[stage + 1], x)
    x = taps['stage3'] = net.norm('bn1', x).relu()
    return score(net, taps, x, 'fc')


def shufflenet_v1(net, x):
    taps = {}
    x = net.norm('bn1', net.conv('conv1', x)).relu()
    for stage in (1, 2, 3):
        for place, name in enumerate(net.blocks(f'layer{stage}')):
            stride = 2 if place == 0 else 1
            y = net.norm(f'{name}.bn1', net.conv(f'{name}.conv1', x)).relu()
            y = shuffle(y, 1 if stage == 1 and place == 0 else 3)
            y = net.norm(f'{name}.bn2', net.conv(f'{name}.conv2', y, stride)).relu()
            y = net.norm(f'{name}.bn3', net.conv(f'{name}.conv3', y))
            if place == 0:
                joined = torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1)
            else:
                joined = y + x
            x = joined.relu()
        taps[f'stage{stage}_pre'], taps[f'stage{stage}'] = joined, x
    return score(net, taps, x, 'linear')


def shufflenet_v2(net, x):
    taps = {}
    x = net.norm('bn1', net.conv('conv1', x)).relu()
    for stage in (1, 2, 3):
        down, *units = net.blocks(f'layer{stage}')
        left = net.norm(f'{down}.bn1', net.conv(f'{down}.conv1', x, 2))
        left = net.norm(f'{down}.bn2', net.conv(f'{down}.conv2', left)).relu()
        right = net.norm(f'{down}.bn3', net.conv(f'{down}.conv3', x)).relu()
        right = net.norm(f'{down}.bn4', net.conv(f'{down}.conv4', right, 2))
        right = net.norm(f'{down}.bn5', net.conv(f'{down}.conv5', right)).relu()
        x = shuffle(torch.cat([left, right], 1), 2)
        for name in units:
            half = x.shape[1] // 2
            passed, y = x[:, :half], x[:, half:]
            y = net.norm(f'{name}.bn1', net.conv(f'{name}.conv1', y)).relu()
            y = net.norm(f'{name}.bn2', net.conv(f'{name}.conv2', y))
            y = net.norm(f'{name}.bn3', net.conv(f'{name}.conv3', y))
            joined = torch.cat([passed, y], 1)
            x = shuffle(torch.cat([passed, y.relu()], 1), 2)
        taps[f'stage{stage}_pre'], taps[f'stage{stage}'] = joined, x
    x = net.norm('bn2', net.conv('conv2', x)).relu()
    return score(net, taps, x, 'linear')


def mobilenet(net, x):
    """mdistiller's ``conv_bn(3, 32, 2)``, ``conv_dw(32, 64, 1)`` and so on."""
    taps = {}
    x = net.norm('model.0.1', net.conv('model.0.0', x, 2)).relu()
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    ends = {3: 1, 5: 2, 11: 3, 13: 4}
    for place, stride in enumerate(strides, 1):
        name = f'model.{place}'
        x = net.norm(f'{name}.1', net.conv(f'{name}.0', x, stride)).relu()
        pre = net.norm(f'{name}.4', net.conv(f'{name}.3', x))
        x = pre.relu()
        if place in ends:
            taps[f'stage{ends[place]}_pre'], taps[f'stage{ends[place]}'] = pre, x
    return score(net, taps, x, 'fc')


def forward(arch, weights, images, training=False):
    """Run the reference form of ``arch`` (our name of it) on its own state dict."""
    form = {
        'resnet': resnet,
        'wrn': wide_resnet,
        'shufflenetv1': shufflenet_v1,
        'shufflenetv2': shufflenet_v2,
        'mobilenetv1': mobilenet,
    }
    [run] = [run for name, run in form.items() if arch.startswith(name)]
    return run(Net(weights, training), images)
