"""Recorders that find a feature by the name that all nets have for it."""

from typing import Any

from mmrazor.models.task_modules.recorder import (
    ModuleOutputsRecorder,
    ParameterRecorder,
)
from mmrazor.registry import TASK_UTILS
from torch import nn

from ...utils.errors import describe
from .taps import find_point, points_of
from .watched import watch


@TASK_UTILS.register_module()
class TapRecorder(ModuleOutputsRecorder):
    """Records the feature of a tap: ``dict(type='Tap', source='stage2_pre')``.

    ``source`` is a name of :func:`points_of`, the same for every net that is known
    there. A tuple of one tensor is recorded as the tensor. Where a net activates a
    feature in place, the recorder switches that off, because the tensor would be
    overwritten after it was recorded.

    Args:
        source (str): ``stage1``, ``stage1_pre`` ... or ``pooled``.

    Attributes:
        key (str): The config key of ``source`` for errors. A distiller replaces it
            by the key of this recorder.

    Raises:
        ValueError: the net has no tap of that name, or a later layer overwrites what
            was recorded.
    """

    key = 'recorder.source'

    def prepare_from_model(self, model: nn.Module) -> None:
        """Hook the recorder up."""
        point = find_point(model, self.source, self.key)
        module = model.get_submodule(point.module)
        watch(self, model, self.key, module)
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
        if not self.recording:
            return
        if isinstance(data, (tuple, list)) and len(data) == 1:
            (data,) = data
        self.data_buffer.append(data)


@TASK_UTILS.register_module()
class TapParameterRecorder(ParameterRecorder):
    """Records a parameter of a tap's module.

    ``dict(type='TapParameter', source='stage2_norm.weight')``.

    Args:
        source (str): A name of :func:`points_of`, a dot, and the parameter's name.

    Attributes:
        key (str): As in :class:`TapRecorder`.

    Raises:
        ValueError: the net has no such module, or the module has no such parameter.
    """

    key = TapRecorder.key

    def prepare_from_model(self, model: nn.Module) -> None:
        """Find the parameter."""
        # The name of a place has a dot itself, if there are several teachers.
        starts = [x for x in points_of(model) if self.source.startswith(f'{x}.')]
        name = starts[0] if starts else self.source.partition('.')[0]
        leaf = self.source[len(name) + 1 :]
        point = find_point(model, name, self.key)
        parameters = dict(model.get_submodule(point.module).named_parameters())
        if leaf not in parameters:
            problem = f'{point.module} has the parameters {sorted(parameters)}.'
            remedy = f'Write {name}.weight, say.'
            raise ValueError(describe(self.key, self.source, problem, remedy))
        self.data_buffer.append(parameters[leaf])
