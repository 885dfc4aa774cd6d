"""What a run without a GPU, and a run of several ranks, computes with."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

from ...utils.arguments import class_of
from ...utils.errors import describe
from ...utils.machine import cores
from .ranks import join_ranks

# Whoever has set one of these has chosen the number of threads.
THREADS_SET_BY = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')
# Kinds of devices on which mmengine's mixed precision does not compute.
WITHOUT_AMP = {'mps'}
# The wrapper of mmengine that trains on several ranks.
DEFAULT = 'MMDistributedDataParallel'


def adapt_to_device(cfg: Config) -> None:
    """Replace what mmengine cannot do without a GPU, and complete the model's wrapper.

    Without a GPU the process group is made with gloo (see :func:`join_ranks`), the
    wrapper loses its GPU id, and mixed precision becomes bf16. With any device, mixed
    precision in bf16 loses its loss scaling unless the config asks for it, and a
    ``model_wrapper_cfg`` that says a part gets mmengine's defaults for the rest, and
    not PyTorch's, which would send all buffers in every step. A run that is to be
    deterministic gets the variable without which PyTorch refuses products of matrices.

    Raises:
        ValueError: the device has no mixed precision.
    """
    device = get_device()
    is_cpu = device == 'cpu'
    adapt_mixed_precision(cfg)
    if is_cpu:
        join_ranks(cfg)
    elif (cfg.get('randomness') or {}).get('deterministic'):
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    written = cfg.get('model_wrapper_cfg')
    is_default = written is None or written.get('type', DEFAULT) == DEFAULT
    if cfg.launcher == 'none' or not (is_cpu or (written and is_default)):
        return
    model_wrapper = ConfigDict(
        type=DEFAULT,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
        broadcast_buffers=False,
    )
    model_wrapper.update(written or {})
    if is_cpu:
        model_wrapper.device_ids = None
    cfg.model_wrapper_cfg = model_wrapper


def adapt_mixed_precision(cfg: Config) -> None:
    """Take the mixed precision that the device has, if the config asks for any.

    Raises:
        ValueError: the device has none.
    """
    device = get_device()
    wrapper = cfg.get('optim_wrapper') or ConfigDict()
    kind = wrapper.get('type') and class_of(wrapper, OPTIM_WRAPPERS, 'optim_wrapper')
    if kind is not AmpOptimWrapper:
        return
    if device in WITHOUT_AMP:
        problem = f"mmengine's mixed precision does not know this device, {device}."
        remedy = "Leave --amp out, or write type='OptimWrapper'."
        raise ValueError(
            describe('optim_wrapper.type', 'AmpOptimWrapper', problem, remedy)
        )
    if device == 'cpu':
        wrapper.pop('loss_scale', None)
        if wrapper.get('dtype') is None:
            wrapper.dtype = 'bfloat16'
    is_bf16 = wrapper.get('dtype') in ('bfloat16', torch.bfloat16)
    # bf16 needs no scaling, and a GPU would have to be waited for in each step.
    if device == 'cpu' or (is_bf16 and 'loss_scale' not in wrapper):
        wrapper.type = 'BF16OptimWrapper'
        wrapper.pop('use_fsdp', None)


@contextmanager
def naming_sync_bn(cfg: Config) -> Iterator[None]:
    """Let errors of layers that ``sync_bn`` makes name that key.

    Raises:
        ValueError: this machine, or this mmcv, has no such layers.
    """
    try:
        yield
    except (ImportError, ValueError) as error:
        chosen, text = cfg.get('sync_bn'), str(error)
        if chosen == 'torch' and 'SyncBatchNorm' in text:
            problem = 'PyTorch can do it on GPUs alone.'
            remedy = 'Write sync_bn=None: ranks then normalise their own images, and '
            remedy += (
                'their running statistics are averaged for scores and checkpoints.'
            )
        elif chosen == 'mmcv' and isinstance(error, ImportError):
            problem = f'This mmcv has no compiled operations ({text}).'
            remedy = "Write sync_bn='torch', for GPUs, or None."
        else:
            raise
        raise ValueError(describe('sync_bn', chosen, problem, remedy)) from error


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
