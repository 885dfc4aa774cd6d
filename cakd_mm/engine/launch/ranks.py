"""How the processes of a training find one another."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import init_dist

from ...utils.errors import describe
from ...utils.machine import end_with_torchrun

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
TIMEOUT = 'env_cfg.dist_cfg.timeout'
# Longer than what one rank may do while others wait: a download, a compilation.
DEFAULT_TIMEOUT = 600  # seconds
# What gloo says of a rank, and the store in which ranks meet of all.
TIMED_OUT = re.compile(r'Timed out waiting \d+ms|wait timeout|[Tt]imed out after')


def join_ranks(cfg: Config) -> None:
    """Make the process group, before anything is read that ranks may disagree about.

    It is that of ``env_cfg.dist_cfg``, as mmengine makes it; without a GPU its backend
    is gloo. A rank that waits longer than ``env_cfg.dist_cfg.timeout`` seconds for
    others ends with an error, 600 by default. It does nothing for a single process,
    or if there is a group. A rank ends with its torchrun.

    Raises:
        OSError: the launcher has not set its variables.
        ValueError: the timeout is no number of seconds.
    """
    if cfg.launcher == 'none' or dist.is_initialized():
        return
    end_with_torchrun()
    settings = _settings(cfg)
    timeout = settings['timeout']
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not is_number or not 0 < timeout < float('inf'):
        problem = 'It is how many seconds a rank waits for the others.'
        raise ValueError(describe(TIMEOUT, timeout, problem, 'Write 600, say.'))
    with explained_timeouts(cfg):
        if get_device() == 'cpu':
            _set_rank_variables(cfg.launcher)
            dist.init_process_group('gloo', timeout=timedelta(seconds=timeout))
        else:
            init_dist(cfg.launcher, **settings)


@contextmanager
def explained_timeouts(cfg: Config) -> Iterator[None]:
    """Say in the error of a rank that has waited too long what to write.

    NCCL's own thread ends a rank without an exception, so that nothing can be added.

    Raises:
        RuntimeError: of the kind that gloo, or the store in which ranks meet, raised.
    """
    try:
        yield
    except RuntimeError as error:
        if cfg.launcher == 'none' or not TIMED_OUT.search(str(error)):
            raise
        timeout = _settings(cfg)['timeout']
        problem = f'For so many seconds another rank has not answered ({error}).'
        remedy = (
            'See why it has ended or hangs. If it was only slow: '
            f'--cfg-options {TIMEOUT}={2 * timeout:g}.'
        )
        raise type(error)(describe(TIMEOUT, timeout, problem, remedy)) from error


def _settings(cfg: Config) -> dict:
    settings = (cfg.get('env_cfg') or {}).get('dist_cfg') or {}
    return {'timeout': DEFAULT_TIMEOUT, **settings}


@contextmanager
def joined_on_error(launcher: str) -> Iterator[None]:
    """Join the other ranks before an error is raised on, so that they can be told.

    What comes before :func:`join_ranks`, such as reading a config that one node alone
    has not, would otherwise leave the others waiting for this rank.

    Args:
        launcher (str): ``args.launcher``, because there may be no config.
    """
    try:
        yield
    except dist.DistError:  # It is joining that has failed.
        raise
    except Exception:
        join_ranks(Config(dict(launcher=launcher)))
        raise


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
