"""A configurable distiller that refuses mistakes which mmrazor's accepts silently."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.model import BaseModel
from mmengine.utils import apply_to
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...utils.arguments import class_of
from ...utils.building import (
    build_part,
    naming_errors,
    naming_use,
    places_of,
    settings_of,
)
from ...utils.errors import describe, nearest
from ..losses.base import (
    DistillLoss,
    as_distill_loss,
    in_float32,
    rows_of,
    terms_from,
)
from ..recorders.head_recorder import HeadRecorder, is_head
from ..recorders.tap_recorder import TapRecorder, place_of
from ..recorders.watched import watch_all
from ..statistics import RunningMean, share_rows, update_means
from ..taps import gives_scores
from .connector_sequence import ConnectorSequence, connect, sees_teacher
from .distiller_config import (
    GROUPS,
    HEAD,
    check_distiller,
    connectors_of,
    partner_of,
    short_name,
    side_of,
    spread,
    without_connector,
)
from .loss_ratio_balancer import LossRatioBalancer


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
        left_out (set[tuple[str, str]]): Losses and their optional arguments that are
            not recorded in this step, because its images have no labels.

    Raises:
        ValueError: naming the config key, its value and what to write instead.
        TypeError: a loss, connector, recorder or scorer has no argument of that name.
    """

    balancer: LossRatioBalancer | None

    def __init__(
        self,
        student_recorders: dict[str, dict] | None = None,
        teacher_recorders: dict[str, dict] | None = None,
        distill_deliveries: dict[str, dict] | None = None,
        connectors: dict[str, dict | list[dict]] | None = None,
        distill_losses: dict[str, dict] | None = None,
        loss_forward_mappings: dict[str, dict[str, dict]] | None = None,
        balancer: dict | None = None,
        **kwargs: Any,
    ) -> None:
        parts: dict[str, Any] = dict(
            student_recorders=student_recorders,
            teacher_recorders=teacher_recorders,
            distill_deliveries=distill_deliveries,
            connectors=connectors,
            distill_losses=distill_losses,
        )
        mappings = dict(loss_forward_mappings=loss_forward_mappings)
        self.check_config({**parts, **mappings, 'balancer': balancer, **kwargs})
        made = dict(connectors=connectors, distill_losses=distill_losses)
        super().__init__(**made, **kwargs)
        # mmrazor would append to the type, which may be a class, or the path of one.
        for group, built in (
            ('student_recorders', self.student_recorders.recorders),
            ('teacher_recorders', self.teacher_recorders.recorders),
            ('distill_deliveries', self.deliveries.deliveries),
        ):
            for name, cfg in (parts[group] or {}).items():
                built[name] = _built(cfg, group, name)
        self.loss_forward_mappings = loss_forward_mappings or {}
        self.balancer = None
        if balancer is not None:
            self.balancer = build_part(balancer, MODELS, f'{HEAD}.balancer')
            self.balancer.check_names(self.distill_losses.keys())
        self.warmup = 1.0
        self.probing = False
        self.left_out: set[tuple[str, str]] = set()
        self._answering: dict[nn.Module, DistillLoss] = {}
        self._set_sizes()

    def _set_sizes(self) -> None:
        """Let maps keep their size where all losses that are fed take any size."""
        resized = set[str]()
        for name, loss in self.losses().items():
            if not loss.any_size:
                for record in self.loss_forward_mappings[name].values():
                    resized.update(connectors_of(record))
        for name in self.connectors.keys() - resized:
            for module in self.connectors[name].modules():
                if hasattr(module, 'keeps_size'):
                    module.keeps_size = True

    @classmethod
    def check_config(cls, cfg: Mapping) -> None:
        """Refuse a config that cannot work, before nets or widths are looked at.

        Args:
            cfg (Mapping): The config, or the arguments by name.

        Raises:
            KeyError, TypeError, ValueError: naming the config key, its value and what
                to write instead.
        """
        check_distiller(cfg, cls, cls.get_record)

    def build_connectors(self, connectors: dict | None = None) -> nn.ModuleDict:
        """Build the connectors; a list of configs is a sequence of modules."""
        built: dict[str, nn.Module] = {}
        for name, cfg in (connectors or {}).items():
            key = f'{HEAD}.connectors.{name}'
            if isinstance(cfg, Mapping):
                built[name] = build_part(cfg, MODELS, key)
                continue
            steps = (build_part(x, MODELS, f'{key}.{i}') for i, x in enumerate(cfg))
            built[name] = ConnectorSequence(*steps)
        return nn.ModuleDict(built)

    def build_distill_losses(self, losses: dict | None = None) -> nn.ModuleDict:
        """Build the losses."""
        built = nn.ModuleDict()
        for name, cfg in (losses or {}).items():
            with naming_errors(cfg, MODELS, f'{HEAD}.distill_losses.{name}'):
                built.update(super().build_distill_losses({name: cfg}))
        return built

    def compute_distill_losses(self) -> dict[str, Tensor]:
        """Compute, balance and warm up all losses; add the losses of trained scorers.

        Returns:
            dict[str, Tensor]: The losses by name, and ``<name>.scorer_loss``
            of those whose scorer is trained.
        """
        modules = self.losses()
        queue: list[tuple[RunningMean, Tensor]] = []
        for module in modules.values():
            module.probing, module.queue = self.probing, queue
        names = self.loss_forward_mappings
        inputs = {name: self._inputs_of(name, modules[name]) for name in names}
        if get_world_size() > 1:
            self._share_rows(inputs)
        losses = {name: self._loss_of(name, inputs[name]) for name in names}
        for module in modules.values():
            module.queue = None
        if self.balancer is None:
            update_means(queue)
        else:
            self.balancer.queue = queue
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

    def _inputs_of(self, name: str, loss: DistillLoss) -> dict[str, Any]:
        """Return what a loss is fed with."""
        mapping = self.loss_forward_mappings[name]
        inputs: dict[str, Any] = {}
        for argument in mapping:
            if (name, argument) not in self.left_out:
                self._feed(name, argument, inputs)
        if not loss.half_precision:
            inputs = {argument: in_float32(x) for argument, x in inputs.items()}
        return inputs

    def fed(self, loss: str, argument: str) -> Any:
        """Return what an argument of a loss gets in this step, connectors included.

        Args:
            loss (str): Name of the loss.
            argument (str): Name of the argument, as its mapping has it.

        Raises:
            ValueError: a recorder recorded nothing, or a connector refuses it.
        """
        return self._feed(loss, argument, {})

    def _feed(self, loss: str, argument: str, inputs: dict[str, Any]) -> Any:
        """Add an argument of a loss to ``inputs``, unless it is there; return it."""
        if argument in inputs:
            return inputs[argument]
        mapping = self.loss_forward_mappings[loss]
        record, partner = mapping[argument], partner_of(argument)
        teacher = None
        is_there = partner in mapping and (loss, partner) not in self.left_out
        if partner and is_there and self._sees_teacher(record):
            teacher = self._feed(loss, partner, inputs)
            teacher = apply_to(teacher, torch.is_tensor, Tensor.detach)
        place = f'{HEAD}.loss_forward_mappings.{loss}.{argument}'
        named = partial(places_of, record, place)
        with naming_use('The recorder', place, record, named):
            data = self.get_record(**without_connector(record))
            inputs[argument] = self._connected(record, data, teacher)
        return inputs[argument]

    def _sees_teacher(self, record: Mapping) -> bool:
        """Tell whether a connector of an entry of a mapping sees the teacher."""
        return any(sees_teacher(self.connectors[x]) for x in connectors_of(record))

    def _share_rows(self, inputs: dict[str, dict[str, Any]]) -> None:
        """Exchange what the norms of all losses will take in with the other ranks."""
        batches = []
        for name, loss in self.losses().items():
            if name in inputs:
                with self._naming_use(name):
                    batches += loss.norm_batches(inputs[name])
        share_rows(batches)

    def _loss_of(self, name: str, inputs: dict[str, Any]) -> Tensor:
        """Return the value of a loss."""
        with self._naming_use(name):
            return self.distill_losses[name](**inputs)

    def _naming_use(self, name: str) -> AbstractContextManager[None]:
        """Name what feeds a loss in errors."""
        kind, fed = self.losses()[name].class_name, self.loss_forward_mappings[name]
        key = f'{HEAD}.loss_forward_mappings.{name}'
        return naming_use(kind, key, sorted(fed), partial(self._places_of, name))

    def _places_of(self, name: str) -> dict[str, tuple[str, Any]]:
        """Return what an error of a loss may be about: its settings and its inputs."""
        mapping = self.loss_forward_mappings[name]
        module = self.distill_losses[name]
        places = settings_of(module, f'{HEAD}.distill_losses.{name}')
        records = {
            argument: {**dict.fromkeys(('connector', 'data_idx')), **record}
            for argument, record in mapping.items()
        }
        return places | places_of(records, f'{HEAD}.loss_forward_mappings.{name}')

    def _connected(self, record: Mapping, data: Any, teacher: Any = None) -> Any:
        """Return what the connectors of an entry of a mapping make of its data."""
        name, index = record.get('connector'), record.get('connector_idx')
        if isinstance(name, str) or isinstance(record['recorder'], str):
            return self._through(name, index, data, teacher)
        seen = teacher if isinstance(teacher, list) else [teacher] * len(data)
        if len(seen) != len(data):  # which the loss refuses
            seen = [None] * len(data)
        columns = spread(name, len(data)), spread(index, len(data)), data, seen
        return [self._through(*row) for row in zip(*columns, strict=True)]

    def _through(self, name: Any, index: Any, data: Any, teacher: Any) -> Any:
        """Return what a connector makes of data, or one of its outputs."""
        if name is not None:
            connector = self.connectors[name]
            key, kind = f'{HEAD}.connectors.{name}', type(connector).__name__
            with naming_use(kind, key, kind, partial(settings_of, connector, key)):
                data = connect(connector, data, teacher)
        return data if index is None else data[index]

    def _student_tensors(self, losses: Iterable[str]) -> dict[str, Tensor]:
        """Return the student's tensor that each loss compares, before its connector.

        For a list it is the first tensor that has a gradient. That is the shallowest,
        through which the gradients of all others go on to the net.
        """
        tensors: dict[str, Tensor] = {}
        for name in losses:
            for record in self.loss_forward_mappings[name].values():
                if record['from_student']:
                    found = self.get_record(**without_connector(record))
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
        return self.terms_of(self.rows())

    def rows(self) -> dict[tuple[str, str], Tensor]:
        """Return what :meth:`terms` are computed from, by the names of loss and row."""
        balanced = {} if self.balancer is None else self.balancer.terms
        return {
            (name, row): value
            for name, loss in self.losses().items()
            for row, value in {**rows_of(loss), **balanced.get(name, {})}.items()
        }

    def terms_of(self, rows: Mapping[tuple[str, str], Tensor]) -> dict[str, Tensor]:
        """Return the terms of :meth:`rows`, or of their means over several steps."""
        found: dict[str, Tensor] = {}
        for name, loss in self.losses().items():
            own = {row: value for (of, row), value in rows.items() if of == name}
            names = LossRatioBalancer.term_labels.keys() & own.keys()
            balanced = {term: own.pop(term) for term in sorted(names)}
            terms = terms_from(loss, own) | DistillLoss.terms_of(loss, balanced)
            for term, value in terms.items():
                found[f'{short_name(name)}/{term}'] = value
        return found

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
        self._record_without_labels('student_recorders', model)
        super().prepare_from_student(model)
        watch_all(self.student_recorders, model, f'{HEAD}.student_recorders')

    def prepare_from_teacher(self, model: nn.Module) -> None:
        """Hook the teacher's recorders up, after checking that their modules exist."""
        self._check_sources('teacher_recorders', model)
        self._record_without_labels('teacher_recorders', model)
        super().prepare_from_teacher(model)
        watch_all(self.teacher_recorders, model, f'{HEAD}.teacher_recorders')

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
        record = dict(
            recorder=recorder, connector=connector, connector_idx=connector_idx
        )
        if isinstance(recorder, str):
            self._check_buffer(recorder, from_student)
            data = super().get_record(recorder, from_student, record_idx, data_idx)
            return self._connected(record, data)
        columns = [spread(option, len(recorder)) for option in (record_idx, data_idx)]
        data = [
            self.get_record(name, from_student, *row)
            for name, *row in zip(recorder, *columns, strict=True)
        ]
        return self._connected(record, data)

    def _check_buffer(self, recorder: str, from_student: bool) -> None:
        """Refuse a recorder that recorded nothing."""
        side = side_of(from_student)
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
        recorders, used = getattr(self, side).recorders, self._used(side)
        for name, recorder in list(recorders.items()):
            key = f'{HEAD}.{side}.{name}.source'
            if hasattr(recorder, 'key'):  # a tap, which raises an error of its own
                recorder.key = key
            is_unused = isinstance(recorder, TapRecorder) and name not in used
            if is_unused and recorder.is_lacking(model):
                # A base records what several methods need, and not every net has it.
                del recorders[name]
            source, known = recorder.source, sources.get(type(recorder).__name__)
            if known is not None and source not in known:
                if source.partition('.')[0] == 'head' and not gives_scores(model):
                    problem += ' It has no classifier, so only its features can teach.'
                remedy = f'Like it: {nearest(source, known)}.'
                raise ValueError(describe(key, source, problem, remedy))

    def _used(self, side: str) -> set[str]:
        """Return the recorders of a net that feed a loss."""
        return {
            name
            for mapping in self.loss_forward_mappings.values()
            for record in mapping.values()
            if side_of(record['from_student']) == side
            for name in spread(record['recorder'], 1)
        }

    def _record_without_labels(self, side: str, model: nn.Module) -> None:
        """Let the scores of heads be recorded as they are without labels."""
        recorders = getattr(self, side).recorders
        for name, recorder in recorders.items():
            source = recorder.source
            if type(recorder) is TapRecorder:
                source = place_of(model, source, recorder.key).module
            elif type(recorder) is not ModuleOutputsRecorder:
                continue
            if is_head(model.get_submodule(source)):
                recorders[name] = HeadRecorder(source)
                recorders[name].key = f'{HEAD}.{side}.{name}.source'


def _built(cfg: Mapping, group: str, name: str) -> Any:
    """Return the recorder or delivery of a config."""
    registry, suffix = GROUPS[group]
    key = f'{HEAD}.{group}.{name}'
    return build_part(
        dict(cfg, type=class_of(cfg, registry, key, suffix)), registry, key
    )
