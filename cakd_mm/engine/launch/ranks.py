"""How the processes of a training find one another."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import init_dist

from ...utils.agreement import ENDED, TIMED_OUT, OtherRankError, is_of_waiting
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
MEETING = 'attempt'  # how URLs of the meeting below begin


def join_ranks(cfg: Config) -> None:
    """Make the process group, before anything is read that ranks may disagree about.

    It is that of ``env_cfg.dist_cfg``, as mmengine makes it; without a GPU its backend
    is gloo. A rank that waits longer than ``env_cfg.dist_cfg.timeout`` seconds for
    others ends with an error, 600 by default. It does nothing for a single process,
    or if there is a group. A rank ends with its torchrun. Ranks that torchrun has
    started again do not meet those that have ended.

    Raises:
        OSError: the launcher has not set its variables.
        ValueError: the timeout is no number of seconds, or this machine has an Apple
            GPU, on which mmengine trains with one process alone.
    """
    if cfg.launcher == 'none' or dist.is_initialized():
        return
    if get_device() == 'mps':
        problem = 'On an Apple GPU mmengine trains with one process alone.'
        remedy = 'Write --launcher none, and start one process without torchrun.'
        raise ValueError(describe('launcher', cfg.launcher, problem, remedy))
    end_with_torchrun()
    settings = _settings(cfg)
    timeout = settings['timeout']
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not is_number or not 0 < timeout < float('inf'):
        problem = 'It is how many seconds a rank waits for the others.'
        raise ValueError(describe(TIMEOUT, timeout, problem, 'Write 600, say.'))
    with explained_waits(cfg):
        if get_device() == 'cpu':
            _set_rank_variables(cfg.launcher)
            limit = timedelta(seconds=timeout)
            dist.init_process_group('gloo', f'{MEETING}://', timeout=limit)
        else:
            init_dist(cfg.launcher, **{'init_method': f'{MEETING}://', **settings})


def _meet(url: str, **options: Any) -> Iterator[tuple[dist.Store, int, int]]:
    """Let ranks meet as by ``env://``, but those alone that were started together.

    torch 2.14 lets all attempts of a torchrun use one store, in which ranks that were
    started again would find the addresses of dead ones.

    Yields:
        tuple: The store, and this process's rank and the number of ranks.
    """
    for store, *ranks in dist.rendezvous(url.replace(MEETING, 'env', 1), **options):
        attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)
        yield dist.PrefixStore(f'{MEETING}{attempt}', store), *ranks


dist.register_rendezvous_handler(MEETING, _meet)


@contextmanager
def explained_waits(cfg: Config) -> Iterator[None]:
    """Say in the error of a rank that has waited for another one what to do.

    NCCL's own thread ends a rank without an exception, so that nothing can be added.

    Raises:
        RuntimeError: of the kind that gloo, or the store in which ranks meet, raised.
    """
    try:
        yield
    except RuntimeError as error:
        if cfg.launcher == 'none' or isinstance(error, OtherRankError):
            raise
        if TIMED_OUT.search(str(error)):
            timeout = _settings(cfg)['timeout']
            problem = f'For so many seconds another rank has not answered ({error}).'
            remedy = (
                'See why it has ended or hangs. If it was only slow: '
                f'--cfg-options {TIMEOUT}={2 * timeout:g}.'
            )
            text = describe(TIMEOUT, timeout, problem, remedy)
        elif ENDED.search(str(error)):
            text = 'Another rank has ended, see its console and the `.log` of its node '
            text += f'({error}).'
        else:
            raise
        raise type(error)(text) from error


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
    except Exception as error:
        if not is_of_waiting(error):  # or it is joining that has failed
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
