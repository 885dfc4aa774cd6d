"""A configurable distiller that refuses what mmrazor's would train on silently."""

from inspect import Parameter, signature

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

    Same config keys. Every declared loss must be mapped, every argument of its
    ``forward`` that has no default must be fed, every recorder, connector and
    tapped module must exist, and a recorder that saw nothing is named.

    An argument may also be a list of features, for which a mapping names a list of
    recorders. ``data_idx`` and ``record_idx`` are then one value for all or a list
    of one for each. So is ``connector`` where it is a list, None for a feature that
    is left as it is; a single name is a connector that takes the whole list, as a
    :class:`FusionConnector`, and says so by ``takes_list = True``::

        preds_S=dict(recorder=['stage2', 'neck'], from_student=True,
                     data_idx=[None, 0], connector=['fit2', 'fit'])

    Every loss gets float32 instead of what mixed precision makes half of, unless it
    says otherwise: mmrazor's own would compute in bf16 on a CPU, where a KL of 0.01
    comes out below 0. What else a loss may say of itself is in :class:`DistillLoss`.

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

    def __init__(
        self,
        student_recorders: dict | None = None,
        teacher_recorders: dict | None = None,
        distill_deliveries: dict | None = None,
        connectors: dict | None = None,
        distill_losses: dict | None = None,
        loss_forward_mappings: dict | None = None,
        balancer: dict | None = None,
        **kwargs,
    ) -> None:
        check_arguments(StrictDistiller, kwargs, HEAD)
        losses, mappings = distill_losses or {}, loss_forward_mappings or {}
        _check_pairing(losses, mappings)
        names = {
            True: set(student_recorders or {}),
            False: set(teacher_recorders or {}),
        }
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

    def compute_distill_losses(self) -> dict[str, Tensor]:
        """Compute, balance and warm up all losses; add what trains their parts.

        Returns:
            dict[str, Tensor]: The losses by name, and ``<name>.scorer_loss``
            of those whose scorer is trained.
        """
        asked = self.losses()
        for loss in asked.values():
            loss.probing = self.probing
        losses = {
            name: self.distill_losses[name](**self._inputs_of(asked[name], mapping))
            for name, mapping in self.loss_forward_mappings.items()
        }
        if self.balancer is not None:
            losses = self.balancer(losses)
            if self.probing:
                self.balancer.probe(losses, self._student_tensors())
        if self.warmup != 1.0:
            losses = {name: self.warmup * loss for name, loss in losses.items()}
        for name, loss in asked.items():
            if loss.auxiliary is not None:
                losses[f'{name}.scorer_loss'] = loss.auxiliary
        return losses

    def losses(self) -> dict[str, DistillLoss]:
        """Return the losses by name, as what answers by the protocol of ours."""
        return {k: as_distill_loss(loss) for k, loss in self.distill_losses.items()}

    def _inputs_of(self, loss: DistillLoss, mapping: dict) -> dict:
        """Return the arguments of a loss's ``forward``."""
        inputs = {key: self.get_record(**record) for key, record in mapping.items()}
        if loss.half_precision:
            return inputs
        return {key: in_float32(value) for key, value in inputs.items()}

    def _student_tensors(self) -> dict[str, Tensor]:
        """Return what each balanced loss compares, before its connector.

        Of a list it is the first that has a gradient: the shallowest, through which
        what all of them teach goes to the net.
        """
        tensors = {}
        for name in self.balancer.losses:
            for record in self.loss_forward_mappings[name].values():
                if record['from_student']:
                    plain = {k: v for k, v in record.items() if 'connector' not in k}
                    found = self.get_record(**plain)
                    for tensor in found if isinstance(found, list) else [found]:
                        if isinstance(tensor, Tensor) and tensor.requires_grad:
                            tensors.setdefault(name, tensor)
        return tensors

    def terms(self) -> dict[str, Tensor]:
        """Return the scalars of the last step that are worth seeing.

        Returns:
            dict[str, Tensor]: ``<loss>/<term>`` to a detached scalar on the
            loss's device; ``loss`` is left out of the names, which mmengine
            would smooth.
        """
        terms = {}
        for name, loss in self.losses().items():
            own = dict(loss.terms)
            if self.balancer is not None:
                own.update(self.balancer.terms.get(name, {}))
            terms.update({f'{short_name(name)}/{k}': v for k, v in own.items()})
        return terms

    def warnings(self, terms: dict[str, float]) -> list[str]:
        """Return what the losses have to say about their logged terms."""
        found = []
        for name, loss in self.losses().items():
            start = f'{short_name(name)}/'
            own = {k[len(start) :]: v for k, v in terms.items() if k.startswith(start)}
            speakers: list[DistillLoss | LossRatioBalancer] = [loss]
            if self.balancer is not None and name in self.balancer.losses:
                speakers.append(self.balancer)
            texts = [speaker.warning(own) for speaker in speakers if own]
            found += [
                f'model.distiller.distill_losses.{name}: {text}'
                for text in texts
                if text
            ]
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
    ):
        """Return recorded data, a list of it for a list of recorders.

        Args:
            recorder (str | list[str]): Its name, or several.
            from_student (bool): Whether it is the student's.
            record_idx (int | list): Which call of the module. Defaults to 0.
            data_idx (int | list, optional): Which of several outputs. Defaults to
                None, the output as it is.
            connector (str | list, optional): What the data goes through; a single
                name takes a whole list. Defaults to None.
            connector_idx (int | list, optional): Which of the connector's outputs.
                Defaults to None.

        Raises:
            ValueError: a recorder saw nothing.
        """
        if isinstance(recorder, str):
            self._check_buffer(recorder, from_student)
            return super().get_record(
                recorder, from_student, record_idx, data_idx, connector, connector_idx
            )
        options = [record_idx, data_idx]
        takes_all = isinstance(connector, str)
        if not takes_all:
            options += [connector, connector_idx]
        columns = [_spread(option, len(recorder)) for option in options]
        data = [
            self.get_record(name, from_student, *row)
            for name, *row in zip(recorder, *columns, strict=True)
        ]
        if not takes_all:
            return data
        data = self.connectors[connector](data)
        return data if connector_idx is None else data[connector_idx]

    def _check_buffer(self, recorder: str, from_student: bool) -> None:
        """A recorder that saw nothing is an error."""
        side = 'student_recorders' if from_student else 'teacher_recorders'
        source = getattr(self, side).get_recorder(recorder)
        if not source.data_buffer:
            raise ValueError(
                describe(
                    f'{HEAD}.{side}.{recorder}.source',
                    source.source,
                    'The module was not run in this step, so nothing was recorded.',
                    'Tap a module that runs; a frozen teacher computes no loss, so '
                    "record labels from the student (source='head.loss_module').",
                )
            )

    def _check_sources(self, side: str, model: nn.Module) -> None:
        """A recorder whose module is missing is an error, by its config key."""
        modules = {name for name, _ in model.named_modules()}
        parameters = {name for name, _ in model.named_parameters()}
        for name, recorder in getattr(self, side).recorders.items():
            key = f'{HEAD}.{side}.{name}.source'
            if hasattr(recorder, 'key'):  # a tap, which says itself what is wrong
                recorder.key = key
            kind = type(recorder).__name__
            known = {
                'ModuleOutputsRecorder': modules,
                'ModuleInputsRecorder': modules,
                'ParameterRecorder': parameters,
            }.get(kind)
            if known is not None and recorder.source not in known:
                raise ValueError(
                    describe(
                        key,
                        recorder.source,
                        f'The {side.split("_")[0]} has nothing of that name.',
                        f'Like it: {nearest(recorder.source, known)}.',
                    )
                )


def short_name(loss: str) -> str:
    """Return a loss's name without ``loss``: mmengine smooths what contains it."""
    return loss.replace('loss_', '').replace('_loss', '').replace('loss', '') or 'cakd'


def _check_short_names(losses: dict) -> None:
    """Two losses with one name in the log would overwrite each other's terms."""
    known: dict[str, str] = {}
    for name in losses:
        other = known.setdefault(short_name(name), name)
        if other != name:
            raise ValueError(
                describe(
                    f'{HEAD}.distill_losses.{name}',
                    dict(losses[name]).get('type'),
                    f'In the log it would have the name of {other!r}, '
                    f'{short_name(name)!r}.',
                    'Rename one of the two.',
                )
            )


def _check_pairing(losses: dict, mappings: dict) -> None:
    """Every loss is mapped and every mapping has a loss."""
    for name in losses.keys() - mappings.keys():
        raise ValueError(
            describe(
                f'{HEAD}.distill_losses.{name}',
                dict(losses[name]).get('type'),
                'Nothing feeds this loss, so it would never be computed.',
                f'Add `{HEAD}.loss_forward_mappings.{name}` or remove the loss.',
            )
        )
    for name in mappings.keys() - losses.keys():
        raise ValueError(
            describe(
                f'{HEAD}.loss_forward_mappings.{name}',
                dict(mappings[name]),
                f'There is no loss of that name; like it: {nearest(name, losses)}.',
                f'Add `{HEAD}.distill_losses.{name}` or remove the mapping.',
            )
        )


def _spread(value, count: int) -> list:
    """Return a list of one value for each of several recorders."""
    return list(value) if isinstance(value, (list, tuple)) else [value] * count


def _check_record(key: str, record, names: dict[bool, set], connectors: set) -> None:
    """One entry of a mapping: where an argument comes from."""
    if not isinstance(record, dict) or not isinstance(record.get('from_student'), bool):
        raise ValueError(
            describe(
                key,
                record,
                'It does not say where the argument comes from.',
                "Write dict(recorder='logits', from_student=True or False).",
            )
        )
    recorder = record.get('recorder')
    is_list = isinstance(recorder, (list, tuple))
    if is_list and not recorder:
        raise ValueError(
            describe(
                f'{key}.recorder',
                recorder,
                'No recorder is named.',
                "Write recorder=['stage1', 'stage2'], say.",
            )
        )
    known = names[record['from_student']]
    side = 'student_recorders' if record['from_student'] else 'teacher_recorders'
    for name in recorder if is_list else [recorder]:
        if not isinstance(name, str) or name not in known:
            raise ValueError(
                describe(
                    f'{key}.recorder',
                    name,
                    f'`{HEAD}.{side}` has no such recorder; '
                    f'it has {nearest(str(name), known)}.',
                    f'Add it to `{HEAD}.{side}` or name one of those.',
                )
            )
    _check_lists(key, record, len(recorder) if is_list else None)
    for name in _spread(record.get('connector'), 1):
        if name is not None and (not isinstance(name, str) or name not in connectors):
            raise ValueError(
                describe(
                    f'{key}.connector',
                    name,
                    f'`{HEAD}.connectors` has {nearest(str(name), connectors)}.',
                    'Add the connector or name one of those.',
                )
            )


def _check_lists(key: str, record: dict, count: int | None) -> None:
    """Lists in an entry of a mapping are as long as that of its recorders."""
    whole = isinstance(record.get('connector'), str)
    for option in ('record_idx', 'data_idx', 'connector', 'connector_idx'):
        value = record.get(option)
        if not isinstance(value, (list, tuple)):
            continue
        if count is None:
            problem, remedy = 'There is one recorder only.', 'Write a single value.'
        elif whole and option == 'connector_idx':
            problem = f'{record["connector"]!r} takes all recorders at once.'
            remedy = 'Write a single value, or none.'
        elif len(value) != count:
            problem = f'It has {len(value)} entries for {count} recorders.'
            remedy = 'Write one for each.'
        else:
            continue
        raise ValueError(describe(f'{key}.{option}', value, problem, remedy))


def _check_connectors(key: str, record: dict, connectors: nn.ModuleDict) -> None:
    """A connector gets a list of features if, and only if, it takes one."""
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
        kind, verb = type(module).__name__, 'takes' if takes_list else 'does not take'
        raise ValueError(
            describe(
                f'{key}.connector',
                connector,
                f'{kind} {verb} a list of features; recorder={recorder!r}.',
                "Write a list of recorders and the connector's name alone."
                if takes_list
                else 'Write a list of connectors, one for each recorder.',
            )
        )


def _check_arguments(loss: str, module: nn.Module, mapping: dict) -> None:
    """Every argument of ``forward`` is fed, and nothing else is."""
    arguments = signature(module.forward).parameters
    required = {
        name
        for name, argument in arguments.items()
        if argument.default is Parameter.empty
        and argument.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    }
    key, kind = f'{HEAD}.loss_forward_mappings.{loss}', type(module).__name__
    for name in sorted(required - mapping.keys()):
        raise ValueError(
            describe(
                key,
                sorted(mapping),
                f'{kind}.forward also needs {name!r}.',
                f'Add {name}=dict(recorder=..., from_student=...).',
            )
        )
    for name in sorted(mapping.keys() - arguments.keys()):
        raise ValueError(
            describe(
                f'{key}.{name}',
                dict(mapping[name]),
                f'{kind}.forward takes {sorted(arguments)}.',
                'Rename or remove the argument.',
            )
        )
