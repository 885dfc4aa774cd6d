"""The fast teacher tells recorders what the plain one would."""

import copy
import logging
import pickle
from contextlib import suppress
from functools import partial

import pytest
import torch
from known_nets import NETS, spread
from mmpretrain.structures import DataSample
from mmrazor.models.task_modules import RecorderManager
from tiny import algorithm, digits_config, distill_config, save_teacher

from cakd_mm.models.runtime import (
    TeacherRuntime,
    build_runtime,
    half_precision,
    teacher_runtime,
)
from cakd_mm.models.taps import points_of

EAGER = dict(compile=False)


def images(count=4, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, generator=generator)


def recorders_of(net, **others):
    """Record every map of a net, its logits and what its head takes."""
    maps = [x for x in points_of(net) if not x.endswith(('_norm', '_inputs'))]
    points = {name: dict(type='Tap', source=name) for name in maps}
    manager = RecorderManager(
        dict(
            points,
            head=dict(type='ModuleOutputs', source='head'),
            taken=dict(type='ModuleInputs', source='head'),
            weight=dict(type='Parameter', source='head.fc.weight'),
            **others,
        )
    )
    manager.initialize(net)
    return manager


def parts(runtime=EAGER):
    """A net, what records it, and a runtime of some settings."""
    net = NETS['resnet8']().eval()
    return net, recorders_of(net), TeacherRuntime(**runtime)


def data_of(manager):
    data = {}
    for name, recorder in manager.recorders.items():
        assert len(recorder.data_buffer) == 1, name
        found = recorder.get_record_data()
        while isinstance(found, tuple):
            (found,) = found
        data[name] = found
    return data


def plain(net, manager, inputs):
    with manager, torch.no_grad():
        net(inputs, mode='tensor')
    return data_of(manager)


def fast(runtime, net, manager, inputs):
    with manager:
        check = partial(data_of, manager)
        runtime(net, inputs, manager.recorders.values(), check)
    return data_of(manager)


def largest_deviation(found, expected):
    assert found.keys() == expected.keys()
    worst = 0.0
    for name, value in expected.items():
        assert found[name].dtype == value.dtype == torch.float32, name
        assert found[name].shape == value.shape, name
        off = (found[name] - value).abs().max() / value.abs().max()
        worst = max(worst, off.item())
    return worst


@pytest.mark.parametrize(
    ('name', 'compiles'),
    [*((name, False) for name in sorted(NETS)), ('resnet8', True), ('wrn16-1', True)],
)
def test_every_tap_of_every_net(name, compiles):
    net = NETS[name]().eval()
    manager, runtime = recorders_of(net), TeacherRuntime(compile=compiles)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    for seed, count in ((0, 4), (1, 4), (2, 3)):  # the last one is not compiled
        inputs = images(count, seed=seed)
        expected = plain(net, manager, inputs)
        found = fast(runtime, net, manager, inputs)
        assert largest_deviation(found, expected) <= 1e-4 * compiles
        assert found['weight'] is expected['weight']
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in before)


@pytest.mark.parametrize(('options', 'frozen'), [({}, True), (EAGER, False)], ids=str)
def test_compiled_weights_are_constants(options, frozen):
    """Normalisation is folded only then."""
    net, manager, runtime = parts(options)
    before = fast(runtime, net, manager, images())['head']
    with torch.no_grad():
        runtime._eager.net.head.fc.bias += 1
    after = fast(runtime, net, manager, images())['head']
    assert torch.equal(after, before) is frozen


def test_whole_batches_alone_are_compiled(monkeypatch):
    sizes = []

    def compiled(function, key, **options):
        assert key == 'model.teacher_runtime.compile'
        return lambda inputs: sizes.append(len(inputs)) or function(inputs)

    monkeypatch.setattr(teacher_runtime, 'compiled', compiled)
    net, manager, runtime = parts({})
    for count in (2, 4, 3, 4, 2):
        fast(runtime, net, manager, images(count))
    # The first of a size is also compared. A run may be resumed at a small batch.
    assert sizes == [2, 2, 4, 4, 4]


def test_what_was_compiled_for_one_net_is_not_run_for_another():
    for seed, taps in ((0, []), (1, ['stage1', 'stage2_pre'])):
        net = NETS['resnet8']().eval()
        torch.manual_seed(seed)
        spread(net)
        recorders = {tap: dict(type='Tap', source=tap) for tap in taps}
        recorders['head'] = dict(type='ModuleOutputs', source='head')
        manager, runtime = RecorderManager(recorders), TeacherRuntime()
        manager.initialize(net)
        expected = plain(net, manager, images())
        for _ in range(2):
            found = fast(runtime, net, manager, images())
            assert largest_deviation(found, expected) < 1e-4


def test_half_precision_is_near_and_handed_on_in_float32():
    net = NETS['wrn16-1']().eval()
    manager = recorders_of(net)
    runtime = TeacherRuntime(dtype='bfloat16', **EAGER)
    expected = plain(net, manager, images())
    found = fast(runtime, net, manager, images())
    assert 1e-4 < largest_deviation(found, expected) < 0.05
    # Normalisation computes in float32.
    norms = [m for m in runtime._eager.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all(m.running_var.dtype == torch.float32 for m in norms)
    assert runtime._eager.net.head.fc.weight.dtype == torch.bfloat16
    # Copies have the settings alone.
    for twin in (copy.deepcopy(runtime), pickle.loads(pickle.dumps(runtime))):
        assert twin.settings() == runtime.settings()
        assert twin._eager is None


@pytest.mark.parametrize(('ratio', 'warned'), [(1.19, True), (1.3, False)])
def test_half_precision_that_does_not_pay_is_told(ratio, warned, monkeypatch):
    texts = []
    monkeypatch.setattr(teacher_runtime, 'speedup', lambda dtype, device: ratio)
    monkeypatch.setattr(teacher_runtime, 'print_log', lambda *args: texts.append(args))
    for dtype in ('float32', 'bfloat16'):
        net, manager, runtime = parts(dict(dtype=dtype, **EAGER))
        fast(runtime, net, manager, images())
    found = [text for text, _, *level in texts if level == [logging.WARNING]]
    assert len(found) == warned
    for text in found:
        assert text.startswith("`model.teacher_runtime.dtype` = 'bfloat16'")
        assert f'{ratio:.1f} times' in text


def test_speed_is_measured(monkeypatch):
    seconds = iter([3.0] * 8 + [2.0, 1.5] * 4)
    monkeypatch.setattr(half_precision, '_seconds', lambda run: next(seconds))
    half_precision.speedup.cache_clear()
    assert half_precision.speedup(torch.bfloat16, torch.device('cpu')) == 2.0
    half_precision.speedup.cache_clear()
    monkeypatch.undo()
    before = torch.get_rng_state()
    assert 0.001 < half_precision.speedup(torch.bfloat16, torch.device('cpu')) < 1000
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize('dtype', ['auto', 'float32'])
def test_autocast_decides_if_asked(dtype):
    net, manager, runtime = parts(dict(dtype=dtype, **EAGER))
    expected = plain(net, manager, images())
    with torch.autocast('cpu', torch.bfloat16):
        found = fast(runtime, net, manager, images())
    assert (largest_deviation(found, expected) > 1e-4) == (dtype == 'auto')


@pytest.mark.parametrize('options', [EAGER, {}], ids=str)
def test_what_lies_between_a_convolution_and_its_norm_is_recorded(options):
    """Compiling folds the others."""
    net = NETS['resnet8']().eval()
    between = {
        'conv': dict(type='ModuleOutputs', source='backbone.stage2.0.conv1'),
        'bn': dict(type='ModuleInputs', source='backbone.stage2.0.bn2'),
    }
    manager, runtime = recorders_of(net, **between), TeacherRuntime(**options)
    expected = plain(net, manager, images())
    found = fast(runtime, net, manager, images())
    assert {'conv', 'bn'} <= found.keys()
    assert largest_deviation(found, expected) < 1e-4


def test_a_hook_that_comes_later_is_told():
    net, manager, runtime = parts()
    fast(runtime, net, manager, images())
    calls = []
    module = net.backbone.stage1[0].conv1
    handle = module.register_forward_hook(lambda *call: calls.append(call))
    module.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    module.register_forward_hook(
        lambda module, args, kwargs, output: calls.append((kwargs, output)),
        with_kwargs=True,
    )
    fast(runtime, net, manager, images())
    calls.clear()
    fast(runtime, net, manager, images(seed=3))
    (before, keywords), (told, inputs, output), (more_keywords, again) = calls
    assert told is module
    assert keywords == more_keywords == {}
    assert again is output
    assert before is inputs
    torch.testing.assert_close(module(inputs[0]), output)
    handle.remove()
    calls.clear()
    fast(runtime, net, manager, images())
    assert all(len(call) == 2 for call in calls)


def test_the_owner_of_a_hook_is_not_copied():
    class Owner:
        def __deepcopy__(self, memo):
            pytest.fail('copied')

        def hook(self, *call):
            self.call = call

    net, owner = NETS['resnet8']().eval(), Owner()
    net.neck.register_forward_hook(owner.hook)
    manager, runtime = recorders_of(net), TeacherRuntime(**EAGER)
    fast(runtime, net, manager, images())
    assert owner.call[0] is net.neck


@pytest.mark.parametrize(
    ('value', 'match'),
    [
        (0.1, r'model.teacher_runtime.*differs by \d.*compile=False'),
        (float('nan'), 'differs by inf'),
    ],
)
def test_another_net_is_refused(value, match, monkeypatch):
    build = TeacherRuntime._build

    def spoilt(self, *args):
        tapped = build(self, *args)
        tapped.net.head.fc.bias.data[0] += value
        return tapped

    monkeypatch.setattr(TeacherRuntime, '_build', spoilt)
    net, manager, runtime = parts()
    with pytest.raises(ValueError, match=match):
        fast(runtime, net, manager, images())


def test_a_teacher_without_a_copy_runs_as_it_is_if_that_is_said(monkeypatch):
    texts, made = [], []

    def refuse(self, *args):
        made.append(args)
        raise RuntimeError('cannot be copied')

    monkeypatch.setattr(TeacherRuntime, '_build', refuse)
    monkeypatch.setattr(teacher_runtime, 'print_log', lambda *args: texts.append(args))
    net, manager, runtime = parts(dict(strict=False, **EAGER))
    expected = plain(net, manager, images())
    for _ in range(2):
        found = fast(runtime, net, manager, images())
        assert largest_deviation(found, expected) == 0
    assert len(made) == 1
    [(text, _, level)] = texts
    assert level == logging.WARNING
    assert text.startswith('The teacher runs as it is, without model.teacher_runtime')
    assert text.endswith('cannot be copied')
    runtime.reset()  # Other weights may bear it.
    fast(runtime, net, manager, images())
    assert len(made) == 2


@pytest.fixture
def tf32():
    """Switch TF32 on for a test; return where."""
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = True
    yield switches
    for switch, allowed in zip(switches, before, strict=True):
        switch.allow_tf32 = allowed


@pytest.mark.parametrize('fails', [False, True])
def test_the_two_are_compared_without_tf32(fails, tf32):
    net, manager, runtime = parts()
    allowed = []

    def note(*_):
        allowed.append([switch.allow_tf32 for switch in tf32])
        if fails:
            raise KeyboardInterrupt

    net.neck.register_forward_hook(note)
    with suppress(KeyboardInterrupt):
        fast(runtime, net, manager, images())
    # In the comparison, where the teacher itself runs, and then when told.
    assert allowed == [[False, False]] + [[True, True]] * (not fails)
    assert all(switch.allow_tf32 for switch in tf32)


def test_the_comparison_draws_no_random_numbers():
    net, manager, runtime = parts()

    def draw(*_):
        torch.rand(1)

    net.neck.register_forward_hook(draw)
    torch.manual_seed(0)
    fast(runtime, net, manager, images())
    found = torch.rand(1)
    torch.manual_seed(0)
    plain(net, manager, images())
    assert torch.equal(found, torch.rand(1))


def test_an_overwritten_feature_is_still_an_error():
    net, manager, runtime = parts()
    net.backbone.stage1[0].relu.inplace = True
    with pytest.raises(ValueError, match='stage1_pre.*overwritten'):
        fast(runtime, net, manager, images())


@pytest.mark.parametrize(
    ('settings', 'key'),
    [
        (dict(dtype='int8'), 'model.teacher_runtime.dtype'),
        (dict(compiled=True), "model.teacher_runtime.compiled` = True.*'compile'"),
        (dict(fold_batchnorm=False), 'fold_batchnorm` = False.*compile=False'),
        (dict(memo_gb=2.0), 'memo_gb` = 2.0.*Remove the key'),
    ],
)
def test_wrong_settings_are_named(settings, key):
    with pytest.raises(ValueError, match=key):
        build_runtime(settings)


# In an algorithm.


def batch(model, count=8, seed=0):
    inputs = torch.randint(
        0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(seed)
    )
    samples = [DataSample().set_gt_label(i % 10) for i in range(count)]
    data = dict(inputs=inputs.to(torch.uint8), data_samples=samples)
    return model.data_preprocessor(data, True)


METHODS = [
    'cakd/demo_digits.py',
    'cakd/ablations/digits/digits_logit-double_network.py',
    'crd/crd_r20_r8_digits.py',
    'ofd/ofd_r20_r8_digits.py',
    'reviewkd/reviewkd_r20_r8_digits.py',
]


@pytest.mark.parametrize('name', METHODS)
def test_a_methods_losses_are_the_same(name, tmp_path):
    checkpoint = save_teacher(tmp_path / 'teacher.pth')
    cfg = digits_config(name, model__teacher_ckpt=str(checkpoint))
    losses = []
    for runtime in (None, EAGER):
        cfg.model.teacher_runtime = runtime
        model = algorithm(cfg)
        for module in model.modules():
            if hasattr(module, 'set_dataset'):
                module.set_dataset(torch.arange(64).numpy() % 10, 0, 8)
                module.indices = torch.arange(8)
        found = model(**batch(model), mode='loss')
        losses.append({key: value.item() for key, value in found.items()})
    assert losses[0].keys() == losses[1].keys()
    assert len(losses[0]) > 1
    for key, value in losses[0].items():
        assert losses[1][key] == pytest.approx(value, rel=1e-4), key


RECORDER = dict(type='FunctionOutputs', source='torch.nn.functional.relu')
DELIVERY = dict(
    type='MethodOutputs', max_keep_data=1, method_path='torch.nn.Module.forward'
)


@pytest.mark.parametrize(
    ('part', 'value', 'key'),
    [
        ('teacher_mode', 'loss', 'model.teacher_mode'),
        (
            *('distiller__teacher_recorders__more', RECORDER),
            'teacher_recorders.more.type',
        ),
        (
            *('distiller__distill_deliveries', dict(shared=DELIVERY)),
            'distill_deliveries.shared',
        ),
    ],
)
def test_what_hooks_cannot_tell_is_refused(part, value, key, tmp_path):
    cfg = distill_config(
        tmp_path, model__teacher_runtime=EAGER, **{f'model__{part}': value}
    )
    with pytest.raises(ValueError, match=key):
        algorithm(cfg)


def test_checkpoints_do_not_know_of_it(tmp_path):
    cfg = distill_config(tmp_path)
    plain = algorithm(cfg)
    cfg.model.teacher_runtime = EAGER
    model = algorithm(cfg)
    model(**batch(model), mode='loss')
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert model.teacher_runtime._eager is not None
    model.load_state_dict(plain.state_dict())
    assert model.teacher_runtime._eager is None  # made again from what was loaded
