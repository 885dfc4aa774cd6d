"""Our nets beside the references', through our converter."""

from functools import cache

import numpy as np
import pytest
import torch
from goldens import ABSENT, FOLDER
from mmrazor.models.task_modules import RecorderManager
from reference_nets import GIVEN, entry, facts, filled, forward, their_name
from test_nets import macs
from tiny import image_classifier
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from cakd_mm.utils import convert_repdistiller_state_dict
from cakd_mm.utils.repdistiller_weights import ARCHS

needs_shared = pytest.mark.skipif(not FOLDER.is_dir(), reason=ABSENT.kwargs['reason'])
SMALLEST = ('resnet8x4', 'wrn16-2', 'shufflenetv1', 'shufflenetv2', 'mobilenetv1')


def classifier(arch, classes=100):
    net = ARCHS[arch]
    return image_classifier(net.backbone, net.width, classes).eval()


@cache
def shapes_of(arch, classes=100):
    """The reference's names, with shapes, read off our net."""
    return {
        their_name(arch, name): tuple(value.shape)
        for name, value in classifier(arch, classes).state_dict().items()
    }


@cache
def pair(arch):
    """A reference's weights, filled by name, and our net with them."""
    gain = 1.3 if arch == 'shufflenetv2' else 1.0
    weights = filled(shapes_of(arch), gain=gain)
    model = classifier(arch)
    model.load_state_dict(convert_repdistiller_state_dict(weights), strict=True)
    return weights, model


def recorded(model, images):
    """What mmrazor's recorders find at every tap that the net names, and the logits.

    The output of the pooling layer is a tuple, as for the distillers.
    """
    sources = {
        tap: 'neck' if tap == 'pooled' else f'backbone.{tap}'
        for tap in model.backbone.tap_channels
    }
    manager = RecorderManager(
        {tap: dict(type='ModuleOutputs', source=at) for tap, at in sources.items()}
    )
    manager.initialize(model)
    with manager:
        logits = model(images, mode='tensor')
    found = dict(logits=logits)
    for tap in sources:
        recorder = manager.get_recorder(tap)
        assert len(recorder.data_buffer) == 1, f'{tap} ran more than once'
        value = recorder.get_record_data()
        found[tap] = value[0] if tap == 'pooled' else value
    return found


def assert_near(found, wanted):
    """Within 1e-5 of the largest."""
    wanted = torch.as_tensor(np.asarray(wanted))
    assert found.shape == wanted.shape
    worst = (found.detach().double() - wanted.double()).abs().max()
    assert worst < 1e-5 * wanted.abs().max()


# --- The eight nets whose keys and numbers are given -------------------------


@needs_shared
@pytest.mark.parametrize(('theirs', 'arch'), GIVEN.items())
@torch.no_grad()
def test_keys_parameters_and_multiplications_are_the_references(theirs, arch):
    given = facts()
    numbers = given['facts'][theirs]
    shapes = {key: tuple(shape) for key, shape in given['state_dict_keys'][theirs]}
    assert shapes == shapes_of(arch)
    weights = filled(shapes)
    model = classifier(arch)
    renamed = convert_repdistiller_state_dict(weights)
    assert len(renamed) == len(weights) == numbers['n_state_dict_entries']
    model.load_state_dict(renamed, strict=True)
    assert sum(p.numel() for p in model.parameters()) == numbers['params_100']
    assert macs(model) == numbers['macs_total_100']
    taps = recorded(model, torch.zeros(1, 3, 32, 32))
    for index in (1, 2, 3):
        shape = tuple(numbers['stages'][f'f{index}'])
        assert taps[f'stage{index}'].shape[1:] == shape
        assert taps[f'stage{index}_pre'].shape[1:] == shape
    assert taps['pooled'].shape[1:] == tuple(numbers['stages']['f4'])


@needs_shared
@pytest.mark.parametrize('theirs', ['resnet20', 'resnet8x4', 'wrn_16_2', 'ShuffleV2'])
@torch.no_grad()
def test_logits_and_features_are_the_references(theirs):
    golden = np.load(FOLDER / f'net_{theirs}.npz')
    arch = GIVEN[theirs]
    shapes = dict(facts()['state_dict_keys'][theirs])
    options = int(golden['fill_seed']), float(golden['fill_gain'])
    sums = dict(zip(golden['param_keys'], golden['param_sum'], strict=True))
    for key, shape in shapes.items():
        data = entry(key, tuple(shape), *options)
        assert data.sum() == pytest.approx(sums[key], rel=1e-5, abs=1e-5)
    weights = filled(shapes, *options)
    model = classifier(arch)
    model.load_state_dict(convert_repdistiller_state_dict(weights), strict=True)
    taps = recorded(model, torch.from_numpy(golden['input']))
    assert_near(taps['logits'], golden['logits'])
    assert_near(taps['pooled'], golden['f4'])
    # A wide net's plain features are its sums.
    post = '_sum' if arch.startswith('wrn') else ''
    for index in (1, 2, 3):
        for ours, end in ((post, ''), ('_pre', '_pre')):
            value = taps[f'stage{index}{ours}'].double()
            stored = f'f{index}{end}'
            assert value.shape == tuple(golden[f'{stored}_shape'])
            assert_near(value.mean((0, 2, 3)), golden[f'{stored}_chan_mean'])
            assert_near(value.mean((0, 1)), golden[f'{stored}_spatial_mean'])
            assert_near(value[0, :, 0, 0], golden[f'{stored}_pos00'])
            for got, name in (
                (value.mean(), 'mean'),
                (value.std(correction=0), 'std'),
                (value.abs().max(), 'absmax'),
            ):
                want = float(golden[f'{stored}_{name}'])
                assert got.item() == pytest.approx(want, rel=1e-5, abs=1e-6)


# --- Every net, beside its form written from the reference's names -----------


@pytest.mark.parametrize('arch', [*GIVEN.values(), 'mobilenetv1'])
@torch.no_grad()
def test_every_tap_is_that_of_the_independent_form(arch):
    weights, model = pair(arch)
    torch.manual_seed(0)
    # MobileNet divides the size by 32.
    size = 64 if arch == 'mobilenetv1' else 32
    images = torch.randn(2, 3, size, size)
    found, wanted = recorded(model, images), forward(arch, weights, images)
    assert found.keys() == wanted.keys()
    for tap, value in wanted.items():
        assert value.std() > 0.01
        assert_near(found[tap], value)


@pytest.mark.parametrize('arch', sorted(ARCHS))
def test_renaming_there_and_back(arch):
    ours = classifier(arch).state_dict()
    theirs = {their_name(arch, name): value for name, value in ours.items()}
    assert len(theirs) == len(ours)
    renamed = convert_repdistiller_state_dict(theirs)
    assert renamed.keys() == ours.keys()
    assert all(renamed[name] is value for name, value in ours.items())


class Operations(TorchDispatchMode):
    """Counts what costs time: the large operations of a forward pass."""

    KINDS = ('convolution', 'batch_norm', 'relu', 'add.', 'cat')

    def __init__(self):
        super().__init__()
        self.counts = dict.fromkeys(self.KINDS, 0)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for kind in self.KINDS:
            first = args[0][0] if isinstance(args[0], list) else args[0]
            if kind in str(function) and first.ndim == 4:
                self.counts[kind] += 1
        return result


@pytest.mark.parametrize('arch', SMALLEST)
@torch.no_grad()
def test_the_taps_cost_no_operation(arch):
    weights, model = pair(arch)
    images = torch.randn(2, 3, 32, 32)
    with Operations() as ours:
        model(images, mode='tensor')
    copied = {name: value.clone() for name, value in weights.items()}
    with Operations() as theirs:
        forward(arch, copied, images, training=True)
    assert ours.counts['convolution'] >= 10
    for kind, count in theirs.counts.items():
        if kind == 'cat' and arch == 'shufflenetv2':
            count -= 13  # in each of the units, written out for a tap there
        if kind == 'relu' and arch == 'shufflenetv2':
            count -= 3  # one for both branches of a block that halves the size
        assert ours.counts[kind] == count, kind


@pytest.mark.parametrize('arch', SMALLEST)
@pytest.mark.parametrize('tap', ['logits', 'stage2_pre', 'stage1'])
def test_gradients_and_statistics_of_a_training_step(arch, tap):
    """In double precision, from a loss at the logits or at a tap."""
    weights, _ = pair(arch)
    weights = {
        name: value.double() if value.is_floating_point() else value.clone()
        for name, value in weights.items()
    }
    model = classifier(arch).double()
    model.load_state_dict(convert_repdistiller_state_dict(weights))
    torch.manual_seed(1)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    found = recorded(model.train(), images)[tap]
    for value in weights.values():
        value.requires_grad_(value.is_floating_point())
    for name, value in weights.items():
        if 'running' in name:
            value.requires_grad_(False)
    wanted = forward(arch, weights, images, training=True)
    if tap not in wanted:  # a wide net's, which in training is not written twice
        norm = model.backbone.get_submodule(tap)
        their = their_name(arch, f'backbone.{tap}.weight').removesuffix('.weight')
        wanted = torch.nn.functional.batch_norm(
            *(wanted[tap.replace('_pre', '_sum')], None, None),
            *(weights[f'{their}.weight'], weights[f'{their}.bias'], True, 0, norm.eps),
        )
    else:
        wanted = wanted[tap]
    assert_close(found, wanted, rtol=1e-9, atol=1e-11)
    direction = torch.randn_like(found)
    (found * direction).sum().backward()
    (wanted * direction).sum().backward()
    parameters = dict(model.named_parameters())
    reached = 0
    for name, value in model.state_dict().items():
        theirs = weights[their_name(arch, name)]
        if name not in parameters:
            if name.endswith(('running_mean', 'running_var')):
                assert_close(value, theirs, rtol=1e-9, atol=1e-11)
            continue
        ours = parameters[name].grad
        if theirs.grad is None:
            assert ours is None
            continue
        reached += 1
        # Below the largest by far: what cancels before a normalisation.
        scale = max(theirs.grad.abs().max().item(), 1e-3)
        assert_close(ours, theirs.grad, rtol=1e-7, atol=1e-9 * scale)
    assert reached > 5
    if tap == 'logits':
        assert reached == len(parameters)
