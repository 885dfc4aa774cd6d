"""Recorders that find a feature by the name that all nets have for it."""

from typing import Any

from mmrazor.models.task_modules.recorder import (
    ModuleOutputsRecorder,
    ParameterRecorder,
)
from mmrazor.registry import TASK_UTILS
from torch import Tensor, nn

from ...utils.errors import describe
from ..taps import NAMES, Point, find_point, points_of
from ..taps.layouts import only_tensor
from ..taps.scores import LOSS_MODULE
from .watched import watch


@TASK_UTILS.register_module()
class TapRecorder(ModuleOutputsRecorder):
    """Records what is at a tap: ``dict(type='Tap', source='stage2')``.

    ``source`` is a name of :func:`points_of`, the same for every net, or that of a
    module, whose output is recorded. A tuple of one tensor is recorded as the tensor,
    and ``data_idx=0`` is then the tensor too. Where a net activates a feature in place,
    the recorder switches that off, because the tensor would be overwritten after it was
    recorded.

    Args:
        source (str): ``logits``, ``pooled``, ``stage1``, ``tokens`` ...

    Attributes:
        key (str): The config key of ``source`` for errors. A distiller replaces it
            by the key of this recorder.

    Raises:
        ValueError: the net has no tap of that name, a later layer overwrites what was
            recorded, or another call is asked for than that of the tap.
    """

    key = 'recorder.source'
    _place: Point | None = None

    def is_lacking(self, model: nn.Module) -> bool:
        """Tell whether a net has not what is to be recorded, as other nets have it."""
        is_name = self.source.rpartition('.')[2] in NAMES
        known = points_of(model).keys() | _modules(model).keys()
        return is_name and self.source not in known

    def prepare_from_model(self, model: nn.Module) -> None:
        """Hook the recorder up."""
        # The trial of a head gives the head alone, where no place could be found.
        point = self._place or place_of(model, self.source, self.key)
        self._place = point
        module = model.get_submodule(point.module)
        watch(self, model, self.key, module, point.takes_input)
        if point.prepare is not None:
            point.prepare(model)
        if not point.takes_input:
            module.register_forward_hook(self.forward_hook)
            return
        if getattr(module, 'inplace', False):
            setattr(module, 'inplace', False)  # noqa: B010
        module.register_forward_pre_hook(self._record_input)

    def forward_hook(self, module: nn.Module, inputs: tuple, outputs: Any) -> None:
        """Record what the module returns."""
        self._record(outputs)

    def _record_input(self, module: nn.Module, inputs: tuple) -> None:
        # If the module is called several times in a forward, the last call counts.
        self._data_buffer.clear()
        self._record(inputs)

    def _record(self, data: Any) -> None:
        if self.recording and self._place is not None:
            self.data_buffer.append((self._place.take or only_tensor)(data))

    def get_record_data(self, record_idx: int = 0, data_idx: int | None = None) -> Any:
        """Return a record; the first part of a lone tensor is the tensor itself.

        A tensor in a tuple would be the same, which modules of mmpretrain give.
        """
        call = None if self._place is None else self._place.call
        if call is not None and record_idx:
            problem = f'{self.source!r} is one call of its module, and no other one.'
            remedy = 'Leave record_idx out, and write the name of another level as '
            remedy += 'the source.'
            raise ValueError(describe('record_idx', record_idx, problem, remedy))
        record_idx = call or record_idx
        record = super().get_record_data(record_idx)
        if data_idx is None or (data_idx == 0 and isinstance(record, Tensor)):
            return record
        return super().get_record_data(record_idx, data_idx)


def place_of(model: nn.Module, source: str, key: str) -> Point:
    """Return the place of a name of :func:`points_of`, or else of a module.

    Raises:
        ValueError: the net has neither.
    """
    if source not in points_of(model) and source in _modules(model):
        # Of a module that computes a loss the inputs are meant, which have the labels.
        return Point(source, takes_input=source.rpartition('.')[2] == LOSS_MODULE)
    return find_point(model, source, key)


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    return dict(model.named_modules())


@TASK_UTILS.register_module()
class TapParameterRecorder(ParameterRecorder):
    """Records a parameter of a tap's module.

    ``dict(type='TapParameter', source='stage2_norm.weight')``.

    Of ``classifier`` None is recorded where the net has none, or the layer has no bias,
    because losses can do without.

    Args:
        source (str): A name of :func:`points_of`, a dot, and the parameter's name; or
            the path of a parameter.

    Attributes:
        key (str): As in :class:`TapRecorder`.

    Raises:
        ValueError: the net has no such module, or the module has no such parameter.
    """

    key = TapRecorder.key

    def prepare_from_model(self, model: nn.Module) -> None:
        """Find the parameter."""
        points, whole = points_of(model), dict(model.named_parameters())
        if self.source in whole:
            self.data_buffer.append(whole[self.source])
            return
        # The name of a place has a dot itself, if there are several teachers.
        name, _, leaf = self.source.rpartition('.')
        if name.rpartition('.')[2] == 'classifier':
            layer = model.get_submodule(points[name].module) if name in points else None
            value = getattr(layer, leaf, None)
            if value is not None and value.dim() > 2:
                value = value.flatten(1)  # of a convolution of one position
            self.data_buffer.append(value)
            return
        point = find_point(model, name, self.key)
        parameters = dict(model.get_submodule(point.module).named_parameters())
        if leaf not in parameters:
            problem = f'{point.module} has the parameters {sorted(parameters)}.'
            remedy = f'Write {name}.weight, say.'
            raise ValueError(describe(self.key, self.source, problem, remedy))
        self.data_buffer.append(parameters[leaf])
