"""Lets a recorder refuse what a later layer has overwritten."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any
from weakref import ref

import torch
from mmrazor.models.task_modules import RecorderManager
from mmrazor.models.task_modules.recorder import (
    FunctionInputsRecorder,
    FunctionOutputsRecorder,
    MethodInputsRecorder,
    MethodOutputsRecorder,
    ModuleInputsRecorder,
    ParameterRecorder,
)
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import Tensor, nn

from ...utils.compiling import is_compiling
from ...utils.errors import describe

OF_INPUTS = (FunctionInputsRecorder, MethodInputsRecorder, ModuleInputsRecorder)


@dataclass(frozen=True)
class Note:
    """What a tensor was like when it was recorded.

    Args:
        tensor (Callable): Returns the tensor, or None if it is gone.
        version (int, optional): PyTorch's count of the changes of its memory; None
            where it keeps no count.
        total (Tensor, optional): The sum of its values, because ``x.data`` is changed
            without being counted. Defaults to None (not computed).
    """

    tensor: Callable[[], Tensor | None]
    version: int | None
    total: Tensor | None = None

    def shares_memory_with(self, other: Tensor) -> bool:
        """Tell whether the other tensor shows the same memory, as a view does."""
        tensor = self.tensor()
        return tensor is not None and _place(tensor) == _place(other)

    def is_changed(self) -> bool:
        """Tell whether the tensor was overwritten since."""
        tensor = self.tensor()
        if tensor is None:
            return False
        if self.version != _version(tensor):
            return True
        if self.total is None:
            return False
        total = _total(tensor)
        both_nan = total.isnan() & self.total.isnan()
        return not bool((total == self.total) | both_nan)


@dataclass(frozen=True)
class Kept:
    """Keeps a tensor; a weak reference has the same form and does not."""

    tensor: Tensor

    def __call__(self) -> Tensor:
        """Return the tensor."""
        return self.tensor


class Watch:
    """Notes what a recorder records, beside the recorder itself.

    A recorder keeps its records as it likes. The calls that it records are noted here,
    by references and without copies. In the first step the sums of all values are noted
    as well.

    Args:
        recorder (BaseRecorder): Of any class.
        key (str): The config key of its ``source``.
        of_inputs (bool): Whether a recorder of another class than MMRazor's records
            what its module is given. Defaults to False.

    Attributes:
        given (dict[tuple, list]): What the recorder has given in this step, by
            ``record_idx`` and ``data_idx``.
        is_compiled (bool): Whether compiled code has made a record, of which nothing
            can be noted.
        with_gradients (bool): Whether gradients were on at each record.
    """

    given: dict[tuple[Any, Any], list[Any]]
    is_compiled: bool
    with_gradients: bool

    def __init__(
        self, recorder: BaseRecorder, key: str, of_inputs: bool = False
    ) -> None:
        self.recorder = recorder
        self.key = key
        self._of_inputs = of_inputs or isinstance(recorder, OF_INPUTS)
        self._adds_up = True
        self._inputs: list[list[Note]] = []
        self._outputs: list[list[Note]] = []
        self._returned: list[Any] = []
        self._forget()

    def _forget(self) -> None:
        # Whoever has taken the lists goes on with them.
        self._inputs, self._outputs, self._returned, self.given = [], [], [], {}
        self.is_compiled, self.with_gradients = False, True

    def reset_data_buffer(self) -> None:
        """Begin a step."""
        type(self.recorder).reset_data_buffer(self.recorder)
        if self._inputs or self._outputs:
            self._adds_up = False
        self._forget()

    def get_record_data(
        self, record_idx: int = 0, data_idx: int | None = None, **options: Any
    ) -> Any:
        """Return what the recorder gives.

        Raises:
            ValueError: it was overwritten after it was recorded.
        """
        give = type(self.recorder).get_record_data
        data = give(self.recorder, record_idx, data_idx, **options)
        if self._is_changed(record_idx, data):
            problem = 'What was recorded was overwritten by a later layer that works '
            problem += 'in place.'
            remedy = 'Tap another module, or write act_cfg=dict(inplace=False) for '
            remedy += 'that layer if the net has the setting; '
            remedy += "type='Tap', source='stage1_pre' records the sum that a stage's "
            remedy += 'last activation gets.'
            raise ValueError(describe(self.key, self.recorder.source, problem, remedy))
        if not is_compiling():  # whose graph would have to return it
            self.given.setdefault((record_idx, data_idx), []).append(data)
        return data

    def note_inputs(self, module: nn.Module | None, inputs: Any) -> None:
        """Note what a module or function is given, before it may overwrite it."""
        self._note(inputs, self._inputs, self._of_inputs)

    def note_outputs(self, module: nn.Module | None, inputs: Any, output: Any) -> None:
        """Note what a module or function returns."""
        self._note(output, self._outputs, not self._of_inputs)

    def _note(self, data: Any, calls: list[list[Note]], is_recorded: bool) -> None:
        if not getattr(self.recorder, 'recording', True):
            return
        if is_compiling():
            self.is_compiled = True
            return
        if is_recorded and not torch.is_grad_enabled():
            self.with_gradients = False
        # What is not recorded is not kept in memory.
        keep = Kept if is_recorded else ref
        if is_recorded:
            self._returned.append(data)
        calls.append(
            [
                Note(keep(x), _version(x), _total(x) if self._adds_up else None)
                for x in tensors_of(data)
            ]
        )

    def wrap(self, function: Callable) -> Callable:
        """Return a function whose inputs and outputs are noted."""

        @wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.note_inputs(None, (args, kwargs))
            output = function(*args, **kwargs)
            self.note_outputs(None, args, output)
            return output

        return noted

    def _is_changed(self, record_idx: int, data: Any) -> bool:
        """Tell whether ``data`` was overwritten after it was recorded.

        If the recorder computes ``data`` only now, any change of what it has recorded
        counts. What it has copied when it recorded is its own.
        """
        calls = self._inputs if self._of_inputs else self._outputs
        if not calls:  # a record of compiled code, say
            return False
        notes = [note for call in calls for note in call]
        records, record = self.recorder.data_buffer, None
        is_aligned = isinstance(records, list) and len(records) == len(calls)
        if is_aligned and -len(calls) <= record_idx < len(calls):
            record, notes = records[record_idx], calls[record_idx]
        used = list(tensors_of(data))
        # A tensor may be one of several that the module gave; a list is all of them.
        is_list = record is not None and not isinstance(record, Tensor)
        if is_list and data is record and len(used) != len(notes):
            return True
        for tensor in used:
            own = _of(tensor, notes)
            if not own:
                every = [x for call in self._inputs + self._outputs for x in call]
                own = _of(tensor, every)[-1:]
            if not own and record is not None and self._is_returned(record, tensor):
                return True  # Another tensor was put into a recorded list.
            if not own:
                own = [note for note in notes if note.shares_memory_with(tensor)]
            if not own and not self._has(tensor):
                own = notes
            if any(note.is_changed() for note in own):
                return True
        return False

    def _is_returned(self, record: Any, tensor: Tensor) -> bool:
        """Tell whether a tensor is in a list that the module itself has returned."""
        is_list = any(record is output for output in self._returned)
        return is_list and any(tensor is x for x in tensors_of(record))

    def _has(self, tensor: Tensor) -> bool:
        """Tell whether the recorder keeps a tensor."""
        kept = [value for value in vars(self.recorder).values() if value is not self]
        return any(tensor is x for x in tensors_of(kept))


def _of(tensor: Tensor, notes: list[Note]) -> list[Note]:
    return [note for note in notes if note.tensor() is tensor]


def tensors_of(data: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested lists (of any kind) and dicts."""
    if isinstance(data, Tensor):
        yield data
    elif isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        for part in data:
            yield from tensors_of(part)
    elif isinstance(data, Mapping):
        yield from tensors_of(list(data.values()))


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _total(tensor: Tensor) -> Tensor:
    return tensor.detach().sum(dtype=torch.float32)


def watch(
    recorder: BaseRecorder,
    model: nn.Module,
    key: str,
    module: nn.Module | None = None,
    of_inputs: bool = False,
) -> None:
    """Let a recorder refuse records that were overwritten after they were made.

    One that does so already stays as it is, and so does one of parameters, which may
    change.

    Args:
        recorder (BaseRecorder): Of any class. It is initialised.
        model (nn.Module): The net that it looks at.
        key (str): The config key of its ``source``.
        module (nn.Module, optional): What it taps. Defaults to None, the module that
            ``source`` names, if there is one.
        of_inputs (bool): As in :class:`Watch`. Defaults to False.

    Raises:
        ValueError: later, from ``get_record_data``.
    """
    if watch_of(recorder) is not None or isinstance(recorder, ParameterRecorder):
        return
    own = Watch(recorder, key, of_inputs)
    # They are set on the object, so that recorders of all classes have them.
    vars(recorder).update(
        watch=own,
        reset_data_buffer=own.reset_data_buffer,
        get_record_data=own.get_record_data,
    )
    if isinstance(recorder, (FunctionOutputsRecorder, MethodOutputsRecorder)):
        for name in ('func_record_wrapper', 'method_record_wrapper'):
            if hasattr(recorder, name):
                wrap = getattr(recorder, name)
                vars(recorder)[name] = partial(_wrapped, own, wrap)
        return
    module = module or dict(model.named_modules()).get(recorder.source)
    if module is not None:
        module.register_forward_pre_hook(own.note_inputs)
        module.register_forward_hook(own.note_outputs)


def watch_all(recorders: RecorderManager, model: nn.Module, key: str) -> None:
    """Watch all recorders of a net; ``key`` is the config key of the group."""
    for name, recorder in recorders.recorders.items():
        watch(recorder, model, f'{key}.{name}.source')


def watch_of(recorder: BaseRecorder) -> Watch | None:
    """Return what watches a recorder, if anything does."""
    return getattr(recorder, 'watch', None)


def _wrapped(own: Watch, wrap: Callable, function: Callable, records: list) -> Callable:
    """Do as mmrazor's wrapper of a function does, and note its calls."""
    return wrap(own.wrap(function), records)
