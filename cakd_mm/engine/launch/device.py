"""What a run without a GPU, and a run of several ranks, computes with."""

import os

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

from ...utils.arguments import class_of
from ...utils.errors import describe
from ...utils.machine import cores

# Whoever has set one of these has chosen the number of threads.
THREADS_SET_BY = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')
# The variables in which a launcher tells a process its rank, the number of ranks, and
# its rank on its node.
RANK_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': (
        'OMPI_COMM_WORLD_RANK',
        'OMPI_COMM_WORLD_SIZE',
        'OMPI_COMM_WORLD_LOCAL_RANK',
    ),
}


def adapt_to_device(cfg: Config) -> None:
    """Replace what mmengine cannot do without a GPU; changes nothing with one.

    The process group is made with gloo, the model wrapper loses its GPU id, and
    mixed precision becomes bf16.
    """
    if get_device() != 'cpu':
        return
    wrapper = cfg.get('optim_wrapper') or ConfigDict()
    kind = wrapper.get('type') and class_of(wrapper, OPTIM_WRAPPERS, 'optim_wrapper')
    if kind is AmpOptimWrapper:
        wrapper.type = 'CPUAmpOptimWrapper'
        for gpu_only in ('loss_scale', 'use_fsdp'):
            wrapper.pop(gpu_only, None)
        if wrapper.get('dtype') is None:
            wrapper.dtype = 'bfloat16'
    if cfg.launcher == 'none':
        return
    if not dist.is_initialized():
        _set_rank_variables(cfg.launcher)
        dist.init_process_group('gloo')
    model_wrapper = ConfigDict(
        type='MMDistributedDataParallel',
        find_unused_parameters=cfg.get('find_unused_parameters', False),
        broadcast_buffers=False,
    )
    model_wrapper.update(cfg.get('model_wrapper_cfg') or {})
    model_wrapper.device_ids = None
    cfg.model_wrapper_cfg = model_wrapper


def _set_rank_variables(launcher: str) -> None:
    """Translate a launcher's variables into those that torch reads.

    Raises:
        OSError: the launcher has not set its variables.
    """
    sources = RANK_VARIABLES[launcher]
    for target, source in zip(RANK_VARIABLES['pytorch'], sources, strict=True):
        if source not in os.environ:
            raise OSError(
                describe(
                    '--launcher',
                    launcher,
                    f'The variable {source} is not set.',
                    'Start through tools/dist_train.sh or tools/slurm_train.sh.',
                )
            )
        os.environ[target] = os.environ[source]
    if int(os.environ.get('SLURM_NNODES', 1)) > 1 and 'MASTER_ADDR' not in os.environ:
        raise OSError(
            describe(
                '--launcher',
                launcher,
                'Several nodes without a GPU have to be told where to meet.',
                'Set MASTER_ADDR to the first node.',
            )
        )
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')


def choose_threads() -> str | None:
    """Compute with half of the cores, unless somebody has said with how many.

    PyTorch's threads wait for one another after every operation. Where other processes
    share the cores (or a container may use fewer than it sees), all threads wait for
    the one that got no core. The number depends on the machine alone, because a resumed
    run equals the uninterrupted one only with the same number of threads.

    Returns:
        str: What has been chosen, for the log; None if nothing was to choose.
    """
    chosen = [name for name in THREADS_SET_BY if name in os.environ]
    if chosen or get_device() != 'cpu':
        return None
    usable, ranks = cores(), int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    threads = max(1, usable // 2 // ranks)
    torch.set_num_threads(threads)
    return (
        f'Computing with {threads} thread(s), half of the {usable} cores; set '
        'OMP_NUM_THREADS to choose otherwise.'
    )
