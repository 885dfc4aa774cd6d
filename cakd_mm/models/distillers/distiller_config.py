"""Checks the config of a distiller before anything is built from it.

Which keys there are, and what their values may be, is said by the signatures of
:class:`StrictDistiller` and of its ``get_record``.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from inspect import Parameter, signature
from typing import Any

from mmengine.registry import Registry
from mmrazor.registry import MODELS, TASK_UTILS

from ...utils.arguments import check_arguments, check_part, class_of, require_part
from ...utils.errors import describe, nearest

HEAD = 'model.distiller'
# Registry and suffix of the types of each group of parts.
GROUPS: dict[str, tuple[Registry, str]] = {
    'student_recorders': (TASK_UTILS, 'Recorder'),
    'teacher_recorders': (TASK_UTILS, 'Recorder'),
    'distill_deliveries': (TASK_UTILS, 'Delivery'),
    'connectors': (MODELS, ''),
    'distill_losses': (MODELS, ''),
}


def check_distiller(cfg: Mapping, kind: type, get_record: Callable) -> None:
    """Refuse a config of which a distiller cannot be made.

    Args:
        cfg (Mapping): Arguments of the distiller by name.
        kind (type): Its class, which says what they are.
        get_record (Callable): It takes the entries of ``loss_forward_mappings``.

    Raises:
        KeyError, TypeError, ValueError: naming the config key, its value and what to
            write instead.
    """
    check_arguments(kind, cfg, HEAD)
    for group, (registry, suffix) in GROUPS.items():
        for name, part in (cfg.get(group) or {}).items():
            key = f'{HEAD}.{group}.{name}'
            require_part(part, key, many=group == 'connectors')
            check_part(part, registry, key, suffix)
    if cfg.get('balancer') is not None:
        require_part(cfg['balancer'], f'{HEAD}.balancer')
        check_part(cfg['balancer'], MODELS, f'{HEAD}.balancer')
    losses = cfg.get('distill_losses') or {}
    mappings = cfg.get('loss_forward_mappings') or {}
    _check_pairing(losses, mappings)
    for loss, mapping in mappings.items():
        key = f'{HEAD}.loss_forward_mappings.{loss}'
        of_loss = class_of(losses[loss], MODELS, f'{HEAD}.distill_losses.{loss}')
        _check_fed(key, of_loss, mapping)
        for argument, record in mapping.items():
            check_arguments(get_record, record, f'{key}.{argument}')
            _check_record(f'{key}.{argument}', record, cfg)
        _check_sides(key, mapping)
    _check_short_names(losses)


def check_by_class(distiller: dict) -> None:
    """Let the class of a distiller look at its config, if the class can.

    This comes before the nets are built, because what is wrong in the config would end
    in another error there: a misspelt recorder has no width, say.
    """
    require_part(distiller, HEAD)
    check = getattr(class_of(distiller, MODELS, HEAD), 'check_config', None)
    if check is not None:
        check(distiller)


def scope_of(distiller: Any) -> str | None:
    """Return mmrazor's scope for a distiller with names that are only known there.

    A pair's base says the scope. A model whose ``type`` is a class brings none.
    """
    for kind in _names_in(distiller):
        for registry, suffix in ((TASK_UTILS, 'Recorder'), (MODELS, '')):
            if kind + suffix not in registry.module_dict:
                continue
            with registry.switch_scope_and_registry(None) as own:
                if own is not registry and kind + suffix not in own.module_dict:
                    return 'mmrazor'
    return None


def _names_in(node: Any) -> Iterator[str]:
    """Yield each ``type`` in a config that is a name."""
    if isinstance(node, Mapping):
        kind = node.get('type')
        if isinstance(kind, str):
            yield kind
        for part in node.values():
            yield from _names_in(part)


def side_of(from_student: bool) -> str:
    """Return the key of a net's recorders."""
    return 'student_recorders' if from_student else 'teacher_recorders'


def without_connector(record: Mapping) -> dict:
    """Return the entry of a mapping as the recorder's part of it alone."""
    return {name: x for name, x in record.items() if 'connector' not in name}


def connectors_of(record: Mapping) -> Iterator[str]:
    """Yield the names of the connectors of an entry of a mapping."""
    return filter(None, spread(record.get('connector'), 1))


def each_record(record: Mapping) -> list[dict]:
    """Return what each recorder of an entry gives, before a connector.

    Args:
        record (Mapping): An entry of a mapping, with one recorder or a list of them.
    """
    names = spread(record['recorder'], 1)
    options: list[tuple[str, Any]] = [('record_idx', 0), ('data_idx', None)]
    columns = [spread(record.get(key, value), len(names)) for key, value in options]
    return [
        dict(
            recorder=name,
            from_student=record['from_student'],
            record_idx=record_idx,
            data_idx=data_idx,
        )
        for name, record_idx, data_idx in zip(names, *columns, strict=True)
    ]


def is_of_net(argument: str, of_student: bool) -> bool:
    """Tell by its name whether an argument is what the student, or the teacher, gives.

    Ours and most of mmrazor's losses say preds_S, others s_feature or student.
    """
    net = 'student' if of_student else 'teacher'
    letter = net[0]
    return argument.endswith(f'_{letter.upper()}') or argument.startswith(
        (f'{letter}_', net)
    )


def partner_of(argument: str) -> str | None:
    """Return the teacher's argument of the name of one of the student's, if it is one.

    It is preds_T for preds_S, t_feature for s_feature, teacher for student.
    """
    if argument.endswith('_S'):
        return f'{argument[:-1]}T'
    for start, other in (('s_', 't_'), ('student', 'teacher')):
        if argument.startswith(start):
            return other + argument.removeprefix(start)
    return None


def short_name(loss: str) -> str:
    """Return the name of a loss in the log, without ``loss``.

    mmengine would smooth every value whose name contains ``loss``.
    """
    return loss.replace('loss_', '').replace('_loss', '').replace('loss', '') or 'cakd'


def _check_short_names(losses: Mapping) -> None:
    """Refuse two losses that would overwrite each other's terms in the log."""
    known: dict[str, str] = {}
    for name in losses:
        short = short_name(name)
        other = known.setdefault(short, name)
        if other != name:
            key, kind = f'{HEAD}.distill_losses.{name}', losses[name].get('type')
            problem = f'In the log it would have the name of {other!r}, {short!r}.'
            raise ValueError(describe(key, kind, problem, 'Rename one of the two.'))


def _check_pairing(losses: Mapping, mappings: Mapping) -> None:
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


def spread(value: Any, count: int) -> list:
    """Return a list with one value for each of ``count`` recorders."""
    return list(value) if isinstance(value, (list, tuple)) else [value] * count


def _check_record(key: str, record: Mapping, cfg: Mapping) -> None:
    """Refuse an entry of a mapping that names nothing an argument could come from."""
    recorders = record['recorder']
    count = len(recorders) if isinstance(recorders, (list, tuple)) else None
    if count == 0:
        problem = 'No recorder is named.'
        remedy = "Write recorder=['stage1', 'stage2'], say."
        raise ValueError(describe(f'{key}.recorder', recorders, problem, remedy))
    _check_names(f'{key}.recorder', recorders, side_of(record['from_student']), cfg)
    _check_lists(key, record, count)
    _check_names(f'{key}.connector', record.get('connector'), 'connectors', cfg)
    _check_takes_list(key, record, cfg)


def _check_sides(key: str, mapping: Mapping) -> None:
    """Refuse a student that would be compared with itself, and one that is a teacher.

    The arguments are known by their names, which end in S and T.
    """
    for name, record in mapping.items():
        if not name.endswith('_S'):
            continue
        place = f'{key}.{name}.from_student'
        if not record['from_student']:
            problem = f'{name} is what the student gives, and nothing would train it.'
            remedy = 'Write from_student=True.'
            raise ValueError(describe(place, False, problem, remedy))
        other = partner_of(name)
        if mapping.get(other) == record:
            problem = f'It is the same as {name}, so the student is its own teacher.'
            place = f'{key}.{other}.from_student'
            remedy = "Write from_student=False, or another recorder of the student's."
            raise ValueError(describe(place, True, problem, remedy))


def _check_names(key: str, names: Any, group: str, cfg: Mapping) -> None:
    """Refuse names that a group of parts does not have."""
    of_teacher = group == side_of(False)
    other = side_of(of_teacher) if group.endswith('recorders') else ''
    known: Collection[str] = cfg.get(group) or {}
    for index, name in enumerate(spread(names, 1)):
        if name is not None and name not in known:
            place = f'{key}.{index}' if isinstance(names, (list, tuple)) else key
            like = nearest(name, {f'{group}.{x}' for x in known})
            problem = f'There is no `{HEAD}.{group}.{name}`; like it: {like}.'
            remedy = 'Add it, or name one of those.'
            if name in (cfg.get(other) or {}):
                remedy += (
                    f' {other} has it: from_student={of_teacher}, if that is meant.'
                )
            raise ValueError(describe(place, name, problem, remedy))


def _check_lists(key: str, record: Mapping, count: int | None) -> None:
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


def _check_takes_list(key: str, record: Mapping, cfg: Mapping) -> None:
    """Refuse a list of features unless the connector takes a list, and vice versa."""
    connector, recorder = record.get('connector'), record['recorder']
    gets_list = isinstance(connector, str) and not isinstance(recorder, str)
    for name in spread(connector, 1):
        if name is None:
            continue
        part = cfg['connectors'][name]
        first = part if isinstance(part, Mapping) else next(iter(part), None)
        if first is None:
            continue
        kind = class_of(first, MODELS, f'{HEAD}.connectors.{name}')
        takes_list = getattr(kind, 'takes_list', False)
        if takes_list == gets_list:
            continue
        verb, entries = 'does not take', 'connectors, one for each recorder.'
        if takes_list:
            verb, entries = 'takes', "recorders and the connector's name alone."
        remedy = f'Write a list of {entries}'
        problem = f'{kind.__name__} {verb} a list of features; recorder={recorder!r}.'
        raise ValueError(describe(f'{key}.connector', connector, problem, remedy))


def _check_fed(key: str, kind: Any, mapping: Mapping) -> None:
    """Refuse a mapping that misses an argument of ``forward``, or has another one."""
    forward = getattr(kind, 'forward', None)
    if forward is None:  # a function makes the loss
        return
    arguments = dict(signature(forward).parameters)
    arguments.pop('self', None)
    several = Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD
    for name, argument in arguments.items():
        needed = argument.default is Parameter.empty and argument.kind not in several
        if needed and name not in mapping:
            problem = f'{kind.__name__}.forward also needs {name!r}.'
            remedy = f'Add {name}=dict(recorder=..., from_student=...) to '
            remedy += f'{sorted(mapping)}.'
            raise ValueError(describe(f'{key}.{name}', None, problem, remedy))
    for name in sorted(mapping.keys() - arguments.keys()):
        problem = f'{kind.__name__}.forward takes {sorted(arguments)}.'
        remedy = 'Rename or remove the argument.'
        value = dict(mapping[name])
        raise ValueError(describe(f'{key}.{name}', value, problem, remedy))
