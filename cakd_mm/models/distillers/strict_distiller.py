"""A configurable distiller that refuses mistakes which mmrazor's accepts silently."""

from collections.abc import Iterable
from inspect import Parameter, signature
from typing import Any

from mmengine.model import BaseModel
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.registry import MODELS, TASK_UTILS
from torch import Tensor, nn

from ...utils.arguments import check_arguments, check_part
from ...utils.errors import describe, nearest
from ..losses.base import DistillLoss, as_distill_loss, in_float32
from .loss_ratio_balancer import LossRatioBalancer

HEAD = 'model.distiller'


@MODELS.register_module()
class StrictDistiller(ConfigurableDistiller):
    """:class:`mmrazor.ConfigurableDistiller` with complete checks.

    The config keys are the same. Every loss must be mapped, every argument of its
    ``forward`` without a default must be fed, every recorder, connector and tapped
    module must exist, and a recorder that recorded nothing is an error.

    An argument may also be a list of features, for which a mapping names a list of
    recorders. ``data_idx`` and ``record_idx`` are then one value for all, or a list
    with one for each. A list of connectors has one for each too, or None where a
    feature stays as it is. A single name is a connector that takes the whole list and
    declares ``takes_list = True``, as :class:`FusionConnector` does::

        preds_S=dict(recorder=['stage2', 'neck'], from_student=True,
                     data_idx=[None, 0], connector=['fit2', 'fit'])

    Losses get float32 instead of half precision unless they ask for half, because
    mmrazor's losses would compute in bf16 on a CPU, where a KL of 0.01 comes out below
    0. What else a loss may declare is in :class:`DistillLoss`.

    Args:
        balancer (dict, optional): Config of a :class:`LossRatioBalancer`.
        **kwargs: ``student_recorders``, ``teacher_recorders``,
            ``distill_deliveries``, ``connectors``, ``distill_losses`` and
            ``loss_forward_mappings`` as in mmrazor.

    Attributes:
        warmup (float): Factor of all distillation losses, set by
            :class:`DistillWarmupHook`.
        probing (bool): Whether this step may spend time on what is only logged.

    Raises:
        ValueError: naming the config key, its value and what to write instead.
        TypeError: a loss, connector, recorder or scorer has no argument of that name.
    """

    balancer: LossRatioBalancer | None

    def __init__(
        self,
        student_recorders: dict | None = None,
        teacher_recorders: dict | None = None,
        distill_deliveries: dict | None = None,
        connectors: dict | None = None,
        distill_losses: dict | None = None,
        loss_forward_mappings: dict | None = None,
        balancer: dict | None = None,
        **kwargs: Any,
    ) -> None:
        check_arguments(StrictDistiller, kwargs, HEAD)
        losses, mappings = distill_losses or {}, loss_forward_mappings or {}
        _check_pairing(losses, mappings)
        ours, theirs = set(student_recorders or {}), set(teacher_recorders or {})
        names = {True: ours, False: theirs}
        for loss, mapping in mappings.items():
            for argument, record in mapping.items():
                key = f'{HEAD}.loss_forward_mappings.{loss}.{argument}'
                _check_record(key, record, names, set(connectors or {}))
        _check_short_names(losses)
        for part, cfgs, registry, suffix in (
            ('student_recorders', student_recorders, TASK_UTILS, 'Recorder'),
            ('teacher_recorders', teacher_recorders, TASK_UTILS, 'Recorder'),
            ('distill_deliveries', distill_deliveries, TASK_UTILS, 'Delivery'),
            ('connectors', connectors, MODELS, ''),
            ('distill_losses', losses, MODELS, ''),
        ):
            for name, cfg in (cfgs or {}).items():
                check_part(cfg, registry, f'{HEAD}.{part}.{name}', suffix)
        check_part(balancer, MODELS, f'{HEAD}.balancer')
        super().__init__(
            student_recorders=student_recorders,
            teacher_recorders=teacher_recorders,
            distill_deliveries=distill_deliveries,
            connectors=connectors,
            distill_losses=distill_losses,
            loss_forward_mappings=None,
            **kwargs,
        )
        for loss, mapping in mappings.items():
            _check_arguments(loss, self.distill_losses[loss], mapping)
            for argument, record in mapping.items():
                key = f'{HEAD}.loss_forward_mappings.{loss}.{argument}'
                _check_connectors(key, record, self.connectors)
        self.loss_forward_mappings = mappings
        self.balancer = None if balancer is None else MODELS.build(balancer)
        if self.balancer is not None:
            self.balancer.check_names(losses)
        self.warmup = 1.0
        self.probing = False
        self._answering: dict[nn.Module, DistillLoss] = {}

    def compute_distill_losses(self) -> dict[str, Tensor]:
        """Compute, balance and warm up all losses; add the losses of trained scorers.

        Returns:
            dict[str, Tensor]: The losses by name, and ``<name>.scorer_loss``
            of those whose scorer is trained.
        """
        modules = self.losses()
        for module in modules.values():
            module.probing = self.probing
        losses = {
            name: self.distill_losses[name](**self._inputs_of(modules[name], mapping))
            for name, mapping in self.loss_forward_mappings.items()
        }
        if self.balancer is not None:
            losses = self.balancer(losses)
            if self.probing:
                tensors = self._student_tensors(self.balancer.losses)
                self.balancer.probe(losses, tensors)
        if self.warmup != 1.0:
            losses = {name: self.warmup * loss for name, loss in losses.items()}
        for name, module in modules.items():
            if module.auxiliary is not None:
                losses[f'{name}.scorer_loss'] = module.auxiliary
        return losses

    def losses(self) -> dict[str, DistillLoss]:
        """Return the losses by name, each with the protocol of :class:`DistillLoss`.

        What stands for a loss of others is made once, because every step asks.
        """
        for loss in self.distill_losses.values():
            if loss not in self._answering:
                self._answering[loss] = as_distill_loss(loss)
        return {k: self._answering[loss] for k, loss in self.distill_losses.items()}

    def _inputs_of(self, loss: DistillLoss, mapping: dict) -> dict:
        """Return the arguments of a loss's ``forward``."""
        inputs = {key: self.get_record(**record) for key, record in mapping.items()}
        if loss.half_precision:
            return inputs
        return {key: in_float32(value) for key, value in inputs.items()}

    def _student_tensors(self, losses: Iterable[str]) -> dict[str, Tensor]:
        """Return the student's tensor that each loss compares, before its connector.

        For a list it is the first tensor that has a gradient. That is the shallowest,
        through which the gradients of all others go on to the net.
        """
        tensors: dict[str, Tensor] = {}
        for name in losses:
            for record in self.loss_forward_mappings[name].values():
                if record['from_student']:
                    plain = {k: v for k, v in record.items() if 'connector' not in k}
                    found = self.get_record(**plain)
                    for tensor in found if isinstance(found, list) else [found]:
                        if isinstance(tensor, Tensor) and tensor.requires_grad:
                            tensors.setdefault(name, tensor)
        return tensors

    def terms(self) -> dict[str, Tensor]:
        """Return the scalars of the last step that are to be logged.

        Returns:
            dict[str, Tensor]: ``<loss>/<term>``, by :func:`short_name`, to a detached
            scalar on the loss's device.
        """
        balanced = {} if self.balancer is None else self.balancer.terms
        return {
            f'{short_name(name)}/{term}': value
            for name, loss in self.losses().items()
            for term, value in {**loss.terms, **balanced.get(name, {})}.items()
        }

    def warnings(self, terms: dict[str, float]) -> list[str]:
        """Return the warnings of losses and balancer about their logged terms."""
        found = []
        for name, loss in self.losses().items():
            start = f'{short_name(name)}/'
            of_loss = {
                key.removeprefix(start): value
                for key, value in terms.items()
                if key.startswith(start)
            }
            if not of_loss:
                continue
            texts = [loss.warning(of_loss)]
            if self.balancer is not None and name in self.balancer.losses:
                texts.append(self.balancer.warning(of_loss))
            found += [f'{HEAD}.distill_losses.{name}: {text}' for text in texts if text]
        return found

    def prepare_from_student(self, model: BaseModel) -> None:
        """Hook the student's recorders up, after checking that their modules exist."""
        self._check_sources('student_recorders', model)
        super().prepare_from_student(model)

    def prepare_from_teacher(self, model: nn.Module) -> None:
        """Hook the teacher's recorders up, after checking that their modules exist."""
        self._check_sources('teacher_recorders', model)
        super().prepare_from_teacher(model)

    def get_record(
        self,
        recorder: str | list[str],
        from_student: bool,
        record_idx: int | list[int] = 0,
        data_idx: int | list[int | None] | None = None,
        connector: str | list[str | None] | None = None,
        connector_idx: int | list[int | None] | None = None,
    ) -> Any:
        """Return recorded data, or a list of it for a list of recorders.

        Args:
            recorder (str | list[str]): Name of a recorder, or several names.
            from_student (bool): Whether the recorder is the student's.
            record_idx (int | list): Which call of the module. Defaults to 0.
            data_idx (int | list, optional): Which of several outputs. Defaults to
                None, the output as it is.
            connector (str | list, optional): What the data goes through; a single
                name takes a whole list. Defaults to None.
            connector_idx (int | list, optional): Which of the connector's outputs.
                Defaults to None.

        Raises:
            ValueError: a recorder recorded nothing.
        """
        if isinstance(recorder, str):
            self._check_buffer(recorder, from_student)
            return super().get_record(
                recorder, from_student, record_idx, data_idx, connector, connector_idx
            )
        options: list[Any] = [record_idx, data_idx]
        if not isinstance(connector, str):
            options += [connector, connector_idx]
        columns = [_spread(option, len(recorder)) for option in options]
        data = [
            self.get_record(name, from_student, *row)
            for name, *row in zip(recorder, *columns, strict=True)
        ]
        if not isinstance(connector, str):
            return data
        data = self.connectors[connector](data)
        return data if connector_idx is None else data[connector_idx]

    def _check_buffer(self, recorder: str, from_student: bool) -> None:
        """Refuse a recorder that recorded nothing."""
        side = _side(from_student)
        source = getattr(self, side).get_recorder(recorder)
        if not source.data_buffer:
            problem = 'The module was not run in this step, so nothing was recorded.'
            remedy = 'Tap a module that runs; a frozen teacher computes no loss, so '
            remedy += "record labels from the student (source='head.loss_module')."
            key = f'{HEAD}.{side}.{recorder}.source'
            raise ValueError(describe(key, source.source, problem, remedy))

    def _check_sources(self, side: str, model: nn.Module) -> None:
        """Refuse a recorder whose module or parameter is missing."""
        modules = {name for name, _ in model.named_modules()}
        parameters = {name for name, _ in model.named_parameters()}
        sources = dict(
            ModuleOutputsRecorder=modules,
            ModuleInputsRecorder=modules,
            ParameterRecorder=parameters,
        )
        problem = f'The {side.split("_")[0]} has nothing of that name.'
        for name, recorder in getattr(self, side).recorders.items():
            key = f'{HEAD}.{side}.{name}.source'
            if hasattr(recorder, 'key'):  # a tap, which raises an error of its own
                recorder.key = key
            source, known = recorder.source, sources.get(type(recorder).__name__)
            if known is not None and source not in known:
                remedy = f'Like it: {nearest(source, known)}.'
                raise ValueError(describe(key, source, problem, remedy))


def _side(from_student: bool) -> str:
    return 'student_recorders' if from_student else 'teacher_recorders'


def short_name(loss: str) -> str:
    """Return the name of a loss in the log, without ``loss``.

    mmengine would smooth every value whose name contains ``loss``.
    """
    return loss.replace('loss_', '').replace('_loss', '').replace('loss', '') or 'cakd'


def _check_short_names(losses: dict) -> None:
    """Refuse two losses that would overwrite each other's terms in the log."""
    known: dict[str, str] = {}
    for name in losses:
        short = short_name(name)
        other = known.setdefault(short, name)
        if other != name:
            key, kind = f'{HEAD}.distill_losses.{name}', losses[name].get('type')
            problem = f'In the log it would have the name of {other!r}, {short!r}.'
            raise ValueError(describe(key, kind, problem, 'Rename one of the two.'))


def _check_pairing(losses: dict, mappings: dict) -> None:
    """Refuse a loss without a mapping and a mapping without a loss."""
    for name in losses.keys() - mappings.keys():
        key, kind = f'{HEAD}.distill_losses.{name}', losses[name].get('type')
        problem = 'Nothing feeds this loss, so it would never be computed.'
        remedy = f'Add `{HEAD}.loss_forward_mappings.{name}` or remove the loss.'
        raise ValueError(describe(key, kind, problem, remedy))
    for name in mappings.keys() - losses.keys():
        key, like = f'{HEAD}.loss_forward_mappings.{name}', nearest(name, losses)
        problem = f'There is no loss of that name; like it: {like}.'
        remedy = f'Add `{HEAD}.distill_losses.{name}` or remove the mapping.'
        raise ValueError(describe(key, dict(mappings[name]), problem, remedy))


def _spread(value: Any, count: int) -> list:
    """Return a list with one value for each of ``count`` recorders."""
    return list(value) if isinstance(value, (list, tuple)) else [value] * count


def _check_record(
    key: str, record: Any, names: dict[bool, set[str]], connectors: set[str]
) -> None:
    """Refuse an entry of a mapping that names nothing an argument could come from."""
    if not isinstance(record, dict) or not isinstance(record.get('from_student'), bool):
        problem = 'It does not say where the argument comes from.'
        remedy = "Write dict(recorder='logits', from_student=True or False)."
        raise ValueError(describe(key, record, problem, remedy))
    recorders = record.get('recorder')
    count = len(recorders) if isinstance(recorders, (list, tuple)) else None
    if count == 0:
        problem = 'No recorder is named.'
        remedy = "Write recorder=['stage1', 'stage2'], say."
        raise ValueError(describe(f'{key}.recorder', recorders, problem, remedy))
    side, known = _side(record['from_student']), names[record['from_student']]
    for name in _spread(recorders, 1):
        if not isinstance(name, str) or name not in known:
            like = nearest(str(name), known)
            problem = f'`{HEAD}.{side}` has no such recorder; it has {like}.'
            remedy = f'Add it to `{HEAD}.{side}` or name one of those.'
            raise ValueError(describe(f'{key}.recorder', name, problem, remedy))
    _check_lists(key, record, count)
    for name in _spread(record.get('connector'), 1):
        if name is not None and (not isinstance(name, str) or name not in connectors):
            problem = f'`{HEAD}.connectors` has {nearest(str(name), connectors)}.'
            remedy = 'Add the connector or name one of those.'
            raise ValueError(describe(f'{key}.connector', name, problem, remedy))


def _check_lists(key: str, record: dict, count: int | None) -> None:
    """Refuse lists that are not as long as the list of an entry's recorders."""
    takes_all = isinstance(record.get('connector'), str)
    for option in ('record_idx', 'data_idx', 'connector', 'connector_idx'):
        value = record.get(option)
        if not isinstance(value, (list, tuple)):
            continue
        if count is None:
            problem, remedy = 'There is one recorder only.', 'Write a single value.'
        elif takes_all and option == 'connector_idx':
            problem = f'{record["connector"]!r} takes all recorders at once.'
            remedy = 'Write a single value, or none.'
        elif len(value) != count:
            problem = f'It has {len(value)} entries for {count} recorders.'
            remedy = 'Write one for each.'
        else:
            continue
        raise ValueError(describe(f'{key}.{option}', value, problem, remedy))


def _check_connectors(key: str, record: dict, connectors: nn.ModuleDict) -> None:
    """Refuse a list of features unless the connector takes a list, and vice versa."""
    connector, recorder = record.get('connector'), record['recorder']
    gets_list = isinstance(connector, str) and not isinstance(recorder, str)
    for name in _spread(connector, 1):
        if name is None:
            continue
        module = connectors[name]
        if isinstance(module, nn.Sequential) and len(module):
            module = module[0]
        takes_list = getattr(module, 'takes_list', False)
        if takes_list == gets_list:
            continue
        verb, entries = 'does not take', 'connectors, one for each recorder.'
        if takes_list:
            verb, entries = 'takes', "recorders and the connector's name alone."
        kind, remedy = type(module).__name__, f'Write a list of {entries}'
        problem = f'{kind} {verb} a list of features; recorder={recorder!r}.'
        raise ValueError(describe(f'{key}.connector', connector, problem, remedy))


def _check_arguments(loss: str, module: nn.Module, mapping: dict) -> None:
    """Refuse a mapping that misses an argument of ``forward``, or has another one."""
    arguments = signature(module.forward).parameters
    required = {
        name
        for name, argument in arguments.items()
        if argument.default is Parameter.empty
        and argument.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    }
    key, kind = f'{HEAD}.loss_forward_mappings.{loss}', type(module).__name__
    for name in sorted(required - mapping.keys()):
        problem = f'{kind}.forward also needs {name!r}.'
        remedy = f'Add {name}=dict(recorder=..., from_student=...).'
        raise ValueError(describe(key, sorted(mapping), problem, remedy))
    for name in sorted(mapping.keys() - arguments.keys()):
        problem = f'{kind}.forward takes {sorted(arguments)}.'
        remedy = 'Rename or remove the argument.'
        value = dict(mapping[name])
        raise ValueError(describe(f'{key}.{name}', value, problem, remedy))
