"""What a later layer overwrites is refused, whichever recorder has recorded it."""

import copy
from collections import deque

import pytest
import torch
from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder, RecorderManager
from mmrazor.registry import TASK_UTILS
from torch import nn
from torch.nn import functional as F

from cakd_mm.models.recorders import watched
from cakd_mm.models.recorders.watched import watch


def halve(x, y=None):
    """A function that recorders patch; it overwrites its second argument."""
    if y is not None:
        y.mul_(0.5)
    return x * 0.5


class Net(nn.Module):
    """Calls two layers, a method and a function; ``after`` may overwrite something."""

    def __init__(self, after=lambda **seen: None, inplace=False):
        super().__init__()
        self.first, self.act = nn.Linear(3, 4), nn.ReLU(inplace)
        self.split = Split()
        self.after = after

    def method(self, x, y=None):
        return halve(x, y)

    def forward(self, x):
        a = self.first(x)
        b = self.act(a)
        c = self.method(b)
        d = halve(c)
        e, f = self.split(d)
        self.after(a=a, b=b, c=c, d=d, e=e, f=f)
        return e + f


class Split(nn.Module):
    def forward(self, x):
        return [x + 1, x + 2]


@TASK_UTILS.register_module(force=True)
class MeanRecorder(ModuleOutputsRecorder):
    """A user's own, which computes what it gives when it is asked."""

    def get_record_data(self, record_idx=0, data_idx=None):
        return super().get_record_data(record_idx, data_idx).mean(0)


def recorded(kind, source, net, context=torch.enable_grad):
    manager = RecorderManager(dict(r=dict(type=kind, source=source)))
    manager.initialize(net)
    recorder = manager.get_recorder('r')
    watch(recorder, net, 'model.distiller.student_recorders.r.source')
    with manager, context():
        net(torch.arange(6.0).view(2, 3))
    return recorder


HERE = __name__
# Recorder, source, which part of which record, and the tensor of the net it is.
PLACES = [
    ('ModuleOutputs', 'first', (0, None), 'a'),
    ('ModuleInputs', 'act', (0, 0), 'a'),
    ('ModuleOutputs', 'split', (0, 0), 'e'),
    ('ModuleOutputs', 'split', (0, None), 'f'),
    ('Mean', 'first', (0, None), 'a'),
    ('MethodOutputs', f'{HERE}.Net.method', (0, None), 'c'),
    ('MethodInputs', f'{HERE}.Net.method', (0, 0), 'b'),
    ('FunctionOutputs', f'{HERE}.halve', (1, None), 'd'),
    ('FunctionInputs', f'{HERE}.halve', (1, 0), 'c'),
]
CHANGES = dict(
    whole=lambda x: x.mul_(2),
    activated=F.relu_,
    slice=lambda x: x[:, 1:].add_(1),
    view=lambda x: x.view(-1).clamp_(min=9),
)


@pytest.mark.parametrize(('kind', 'source', 'place', 'name'), PLACES)
@pytest.mark.parametrize('change', CHANGES)
def test_an_overwritten_record_is_refused(kind, source, place, name, change):
    def after(**seen):
        CHANGES[change](seen[name])

    recorder = recorded(kind, source, Net(after), torch.no_grad)
    with pytest.raises(ValueError, match=r'recorders\.r\.source.*overwritten'):
        recorder.get_record_data(*place)


@pytest.mark.parametrize(('kind', 'source', 'place', 'name'), PLACES)
def test_what_is_not_overwritten_is_given_without_a_copy(kind, source, place, name):
    seen = {}

    def after(**tensors):
        seen.update(tensors)
        for other, tensor in tensors.items():
            if other != name and (source, place) != ('split', (0, None)):
                tensor.add_(1)

    found = recorded(kind, source, Net(after), torch.no_grad).get_record_data(*place)
    if kind == 'Mean':
        assert torch.equal(found, seen[name].mean(0))
    else:
        found = found[1] if isinstance(found, list) else found
        assert found is seen[name]


@pytest.mark.parametrize('inplace', [False, True])
def test_the_inputs_of_a_module_that_works_in_place(inplace):
    recorder = recorded('ModuleInputs', 'act', Net(inplace=inplace))
    if not inplace:
        assert (recorder.get_record_data(0, 0) < 0).any()
        return
    with pytest.raises(ValueError, match='overwritten'):
        recorder.get_record_data(0, 0)


@pytest.mark.parametrize('kind', ['MethodInputs', 'FunctionInputs'])
def test_the_inputs_of_a_call_that_works_in_place(kind):
    class Calls(Net):
        def forward(self, x):
            y = self.first(x)
            return self.method(x, y) if kind == 'MethodInputs' else halve(x, y=y)

    source = f'{HERE}.Net.method' if kind == 'MethodInputs' else f'{HERE}.halve'
    recorder = recorded(kind, source, Calls(), torch.no_grad)
    assert recorder.get_record_data(0, 0).shape == (2, 3)
    with pytest.raises(ValueError, match='overwritten'):
        recorder.get_record_data(0, 1)


def test_a_tensor_that_is_recorded_twice_counts_from_each_time():
    """The output of a layer, and after it was activated in place that of another."""
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Identity())
    same = net[2]
    net[0].register_forward_hook(lambda module, inputs, output: same(output))
    recorder = recorded('ModuleOutputs', '2', net, torch.no_grad)
    assert recorder.data_buffer[0] is recorder.data_buffer[1]
    assert (recorder.get_record_data(1) >= 0).all()
    with pytest.raises(ValueError, match='overwritten'):
        recorder.get_record_data(0)


def test_a_recorded_list_whose_tensors_are_exchanged():
    class Exchanges(Net):
        def forward(self, x):
            parts = self.split(x)
            parts[0] = parts[0] * 2
            return parts[0]

    recorder = recorded('ModuleOutputs', 'split', Exchanges())
    assert torch.equal(recorder.get_record_data(0, 1), torch.arange(6.0).view(2, 3) + 2)
    for place in (0, None):
        with pytest.raises(ValueError, match='overwritten'):
            recorder.get_record_data(0, place)


def test_a_recorded_list_that_grows():
    class Grows(Net):
        def forward(self, x):
            parts = self.split(x)
            parts.append(x)
            return x

    recorder = recorded('ModuleOutputs', 'split', Grows())
    assert torch.equal(recorder.get_record_data(0, 1), torch.arange(6.0).view(2, 3) + 2)
    with pytest.raises(ValueError, match='overwritten'):
        recorder.get_record_data()


def test_tensors_without_a_count_of_changes_are_given():
    recorder = recorded('ModuleOutputs', 'first', Net(), torch.inference_mode)
    assert recorder.get_record_data().shape == (2, 4)


def test_a_parameter_may_change_from_step_to_step():
    net = Net()
    recorder = recorded('Parameter', 'first.weight', net)
    net.first.weight.data.mul_(2)
    assert recorder.get_record_data() is net.first.weight


def test_a_copy_watches_its_own_net():
    net = Net(lambda **seen: seen['a'].mul_(2))
    other, recorder = copy.deepcopy(
        (net, recorded('ModuleOutputs', 'first', net, torch.no_grad))
    )
    with recorder, torch.no_grad():
        other(torch.ones(1, 3))
    assert type(recorder.data_buffer) is list
    with pytest.raises(ValueError, match='overwritten'):
        recorder.get_record_data()


@TASK_UTILS.register_module(force=True)
class LastRecorder(ModuleOutputsRecorder):
    """A user's own, with a buffer of another kind."""

    def reset_data_buffer(self):
        self._data_buffer = deque(maxlen=1)


@TASK_UTILS.register_module(force=True)
class CopyingRecorder(ModuleOutputsRecorder):
    """A user's own, which copies what would be overwritten."""

    def forward_hook(self, module, inputs, outputs):
        self.data_buffer.append(outputs.clone())


@TASK_UTILS.register_module(force=True)
class KeepingRecorder(ModuleOutputsRecorder):
    """A user's own, which keeps what it records elsewhere, without its graph."""

    def forward_hook(self, module, inputs, outputs):
        self.kept = outputs.detach()

    def get_record_data(self, record_idx=0, data_idx=None):
        return self.kept


class Thrice(Net):
    """Calls a layer three times, and overwrites what it has given first."""

    def forward(self, x):
        self.calls = [self.first(x + i) for i in range(3)]
        self.calls[0].relu_()
        return self.calls[-1]


def test_a_buffer_of_another_kind_stays_what_it_is():
    net = Thrice()
    recorder = recorded('Last', 'first', net)
    assert len(recorder.data_buffer) == 1
    assert recorder.get_record_data() is net.calls[2]
    recorder = recorded('ModuleOutputs', 'first', net)
    assert type(recorder.data_buffer) is list
    assert recorder.get_record_data(-1) is net.calls[2]
    with pytest.raises(ValueError, match='overwritten'):
        recorder.get_record_data(0)


@pytest.mark.parametrize(
    ('kind', 'is_refused'), [('Copying', False), ('Keeping', True)]
)
def test_a_copy_is_its_own_and_a_view_is_not(kind, is_refused):
    net = Net(lambda **seen: seen['a'].mul_(2))
    recorder = recorded(kind, 'first', net)
    if is_refused:
        with pytest.raises(ValueError, match='overwritten'):
            recorder.get_record_data()
    else:
        expected = net.first(torch.arange(6.0).view(2, 3))
        assert torch.equal(recorder.get_record_data(), expected)


def test_a_change_that_is_not_counted_is_found_in_the_first_step():
    net = Net(lambda **seen: seen['a'].data.mul_(2))
    with pytest.raises(ValueError, match='overwritten'):
        recorded('ModuleOutputs', 'first', net).get_record_data()
    nan = Net()
    nan.first.weight.data.fill_(float('nan'))
    assert recorded('ModuleOutputs', 'first', nan).get_record_data().isnan().all()


def test_sums_are_those_of_the_first_step_alone(monkeypatch):
    net, summed = Net(), []
    total = watched._total
    monkeypatch.setattr(watched, '_total', lambda x: summed.append(x) or total(x))
    recorder = recorded('ModuleOutputs', 'first', net)
    counts = [len(summed)]
    with recorder:
        net(torch.ones(1, 3))
    counts.append(len(summed))
    assert counts[0] > 0 and counts[1] == counts[0]
    assert recorder.get_record_data().shape == (1, 4)
