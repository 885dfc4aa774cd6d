"""Shares a big teacher's weights out among the ranks."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmrazor.models.task_modules.recorder import ParameterRecorder
from torch import Tensor, nn

from ...compat import SHARDING_TORCH, find_fully_shard
from ...utils.agreement import require_same
from ...utils.checkpoint import hexadecimal
from ...utils.errors import describe
from .teacher_ensemble import TeacherEnsemble

KEY = 'model.teacher_shard'
# An element of a list becomes a unit if it has this share of the weights at least, so
# that no rank has much more than its shard whole at a time, and none asks the others
# for small parts.
LEAST_SHARE = 1 / 256
# Whose children are called one by one, each by itself.
LISTS = (nn.ModuleList, nn.Sequential, TeacherEnsemble)


def check_shardable(settings: Mapping[str, Any]) -> None:
    """Refuse what a teacher cannot do whose weights are shared out.

    Args:
        settings (Mapping): Other arguments of the model, by name.

    Raises:
        RuntimeError: this PyTorch cannot do it.
        ValueError: one of the arguments does not go with it.
    """
    if find_fully_shard() is None:
        problem = f'PyTorch {torch.__version__} cannot share out the weights of a part.'
        remedy = f'Install torch>={SHARDING_TORCH}, or remove the key.'
        raise RuntimeError(describe(KEY, True, problem, remedy))
    whole = 'whole weights of the teacher, and each rank has a part of them.'
    lacks = {
        'teacher_runtime': f'It copies the {whole}',
        'save_teacher': f'A checkpoint needs the {whole}',
        'allow_random_teacher': f'Checkpoints of a random teacher need the {whole}',
    }
    for name, problem in lacks.items():
        if settings[name] not in (None, False):
            remedy = f'Remove it, or write {KEY}=False.'
            raise ValueError(describe(f'model.{name}', settings[name], problem, remedy))
    if settings['teacher_mode'] != 'tensor':
        problem = f"The trial of the teacher's head needs the {whole}"
        remedy = f"Write 'tensor', or {KEY}=False."
        key = 'model.teacher_mode'
        raise ValueError(describe(key, settings['teacher_mode'], problem, remedy))


def shard_teacher(algorithm: Any) -> bool:
    """Leave this rank a part of each of the teacher's weights.

    What :func:`units_of` gives, and the rest, is gathered when it runs and let go of
    afterwards. Weights that a recorder gives to a loss stay whole.

    Args:
        algorithm (FrozenTeacherDistill): It has all its parts and is not wrapped yet.

    Returns:
        bool: Whether there are other ranks, and so it was done.

    Raises:
        ValueError: the ranks have not the same teacher.
    """
    teacher, ranks = algorithm.teacher, get_world_size()
    if ranks == 1:
        print_log(f'{KEY}=True changes nothing: there is one process.', 'current')
        return False
    # Parts of different teachers would not fit.
    found = f'SHA-256 {hexadecimal(algorithm.teacher_sha256.flatten())}'
    problem = 'The ranks have read different teachers:'
    remedy = 'Give every node the same file.'
    key = 'model.teacher_ckpt'
    require_same(found, key, algorithm.teacher_file, problem, remedy)
    shard: Any = find_fully_shard()
    total = bytes_of(teacher)
    recorded = {
        parameter
        for recorder in algorithm.distiller.teacher_recorders.recorders.values()
        if isinstance(recorder, ParameterRecorder)
        for parameter in recorder.data_buffer
    }
    units = [*units_of(teacher), teacher]
    for unit in units:
        # The outermost part is let go of as well. Otherwise a checkpoint would let go
        # of it on the rank that writes, and the other ranks would wait for that rank.
        shard(unit, reshard_after_forward=True, ignored_params=recorded)
    # The wrapper compares all parameters of the ranks, and shards differ.
    algorithm._ddp_params_and_buffers_to_ignore = [
        name
        for part in (algorithm.named_parameters(), algorithm.named_buffers())
        for name, tensor in part
        if name.startswith('teacher.')
    ]
    print_log(
        f"The teacher's weights ({total / 2**20:.1f} MiB) are shared out among {ranks} "
        f'ranks in {len(units)} units: this one has {bytes_of(teacher) / 2**20:.1f} MiB'
        f' of them ({KEY}).',
        'current',
    )
    return True


def units_of(teacher: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of a teacher that are gathered one by one, inner ones first.

    They are elements of lists (blocks of a ResNet, a ViT or a Swin, say), because lists
    call their elements as modules, which is when a part can be gathered.
    """
    least = LEAST_SHARE * sum(x.numel() for x in teacher.parameters())
    claimed: set[nn.Parameter] = set()
    # Modules come before their children here.
    for parent in reversed(list(teacher.modules())):
        for element in parent.children() if isinstance(parent, LISTS) else ():
            own = set(element.parameters()) - claimed
            is_called = type(element).forward is not nn.Module.forward
            if is_called and sum(x.numel() for x in own) >= least:
                claimed |= own
                yield element


def is_shared_out(tensor: Tensor) -> bool:
    """Tell whether this rank has a part of a weight alone."""
    return hasattr(tensor, 'to_local')  # a DTensor, which older PyTorch has not


def local_part(tensor: Any) -> Tensor:
    """Return what this rank has of a weight, all of it if it is not shared out."""
    return tensor.to_local() if is_shared_out(tensor) else tensor


def local_part_like(own: Any, whole: Tensor) -> Tensor:
    """Return the part of a whole weight that this rank would have of ``own``."""
    if not is_shared_out(own):
        return whole
    rank, parts = own.device_mesh.get_local_rank(), whole.chunk(own.device_mesh.size())
    return parts[rank] if rank < len(parts) else whole[:0]


def bytes_of(net: nn.Module) -> int:
    """Return how many bytes of a net's weights this rank has."""
    own = [local_part(parameter) for parameter in net.parameters()]
    return sum(x.numel() * x.element_size() for x in own)


def shared_in_copies(algorithm: Any) -> dict[int, Any]:
    """Return, by ``id``, what a copy of an algorithm has in common with it.

    PyTorch cannot copy a teacher that is shared out, and its hooks record for the
    recorders that it had at first.
    """
    own: list[Any] = [algorithm.distiller.teacher_recorders]
    for module in algorithm.teacher.modules():
        own += module, module._modules
    return {id(each): each for each in own}
