"""Lets a recorder refuse what a later layer has overwritten."""

from collections.abc import Callable, Iterator, Mapping, MutableSequence
from functools import partial, wraps
from typing import Any

import torch
from mmrazor.models.task_modules import RecorderManager
from mmrazor.models.task_modules.recorder import (
    FunctionInputsRecorder,
    MethodInputsRecorder,
    ModuleInputsRecorder,
)
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import Tensor, nn

from ...utils.compiling import is_compiling
from ...utils.errors import describe

# PyTorch's count of the changes of a tensor's memory; None where it keeps no count.
Note = tuple[Tensor, int | None]


class Records(MutableSequence):
    """The records of a step, each with what its tensors were like when it was made.

    It takes the place of the plain list in mmrazor's recorders. Only references are
    kept, as there.

    Attributes:
        notes (list[list | None]): For each record its tensors and their versions; None
            for a record that compiled code has made, where versions mean nothing.
        with_gradients (list[bool]): Whether gradients were on.
    """

    def __init__(self) -> None:
        self._records: list[Any] = []
        self._inputs: list[Note] = []
        self.notes: list[list[Note] | None] = []
        self.with_gradients: list[bool] = []

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        return self._records[index]

    def __setitem__(self, index: Any, record: Any) -> None:
        del self[index]
        self.insert(index, record)

    def __delitem__(self, index: Any) -> None:
        del self._records[index], self.notes[index], self.with_gradients[index]

    def insert(self, index: int, value: Any) -> None:
        """Add a record; the other ways to add one lead here."""
        self._records.insert(index, value)
        self.with_gradients.insert(index, torch.is_grad_enabled())
        if is_compiling():
            self.notes.insert(index, None)
            return
        noted = [(tensor, _version(tensor)) for tensor in tensors_of(value)]
        for place, (tensor, _) in enumerate(noted):
            for note in self._inputs:
                if note[0] is tensor:
                    noted[place] = note
        self._inputs = []
        self.notes.insert(index, noted)

    def clear(self) -> None:
        """Remove all records; the inherited way does not compile with PyTorch 2.5."""
        for rows in (self._records, self.notes, self.with_gradients):
            rows.clear()

    def expect(self, inputs: Any) -> None:
        """Note inputs before the module or function runs that may overwrite them."""
        if not is_compiling():
            self._inputs = [(x, _version(x)) for x in tensors_of(inputs)]

    def is_changed(self, index: int, data: Any) -> bool:
        """Tell whether ``data``, taken from a record, was overwritten since.

        If the recorder has computed ``data`` from the record, any change of the record
        counts.
        """
        noted = self.notes[index]
        if noted is None:
            return False
        record = self._records[index]
        used = list(tensors_of(data))
        if data is record and len(used) != len(noted):
            return True
        for tensor in used:
            notes = [note for note in noted if note[0] is tensor]
            if not notes and any(tensor is other for other in tensors_of(record)):
                return True  # Another tensor was put into a recorded list.
            if any(version != _version(kept) for kept, version in notes or noted):
                return True
        return False


def tensors_of(data: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested tuples, lists and dicts."""
    if isinstance(data, Tensor):
        yield data
    elif isinstance(data, (tuple, list)):
        for part in data:
            yield from tensors_of(part)
    elif isinstance(data, Mapping):
        yield from tensors_of(list(data.values()))


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def watch(recorder: BaseRecorder, model: nn.Module, key: str) -> None:
    """Let a recorder refuse records that were overwritten after they were made.

    One that does so already stays as it is.

    Args:
        recorder (BaseRecorder): Of any class. It is initialised.
        model (nn.Module): The net that it looks at.
        key (str): The config key of its ``source``.

    Raises:
        ValueError: later, from ``get_record_data``.
    """
    if 'get_record_data' in vars(recorder):
        return
    # They are set on the object, so that recorders of all classes have them.
    vars(recorder).update(
        reset_data_buffer=partial(_reset, recorder),
        get_record_data=partial(_unchanged_data, recorder, key),
    )
    # These record inputs after the call, when an in-place layer has overwritten them.
    if isinstance(recorder, ModuleInputsRecorder):
        module = model.get_submodule(recorder.source)
        module.register_forward_pre_hook(partial(_expect, recorder))
    elif isinstance(recorder, FunctionInputsRecorder):
        wrap = recorder.func_record_wrapper
        vars(recorder).update(func_record_wrapper=partial(_wrap_expecting, wrap))
    elif isinstance(recorder, MethodInputsRecorder):
        wrap = recorder.method_record_wrapper
        vars(recorder).update(method_record_wrapper=partial(_wrap_expecting, wrap))


def watch_all(recorders: RecorderManager, model: nn.Module, key: str) -> None:
    """Watch all recorders of a net; ``key`` is the config key of the group."""
    for name, recorder in recorders.recorders.items():
        watch(recorder, model, f'{key}.{name}.source')


def _reset(recorder: BaseRecorder) -> None:
    type(recorder).reset_data_buffer(recorder)
    # A parameter's recorder keeps what it has.
    if not recorder.data_buffer:
        recorder._data_buffer = Records()


def _expect(recorder: ModuleInputsRecorder, module: nn.Module, inputs: tuple) -> None:
    if recorder.recording:
        recorder.data_buffer.expect(inputs)


def _wrap_expecting(wrap: Callable, function: Callable, records: Records) -> Callable:
    @wraps(function)
    def expecting(*args: Any, **kwargs: Any) -> Any:
        records.expect((args, kwargs))
        return function(*args, **kwargs)

    return wrap(expecting, records)


def _unchanged_data(
    recorder: BaseRecorder, key: str, record_idx: int = 0, data_idx: int | None = None
) -> Any:
    data = type(recorder).get_record_data(recorder, record_idx, data_idx)
    records = recorder.data_buffer
    if isinstance(records, Records) and records.is_changed(record_idx, data):
        problem = 'What was recorded was overwritten by a later layer that works in '
        problem += 'place.'
        remedy = 'Tap another module, or write act_cfg=dict(inplace=False) for that '
        remedy += "layer if the net has the setting; type='Tap', source='stage1_pre' "
        remedy += "records the sum that a stage's last activation gets."
        raise ValueError(describe(key, recorder.source, problem, remedy))
    return data
