"""PyTorch's torchrun, whose last line says why a rank has failed.

It takes torchrun's arguments. Unlike the other tools it does not import ``cakd_mm``,
because a process that only waits should take little memory.
"""

import sys

from torch.distributed.elastic.multiprocessing.errors import (
    ChildFailedError,
    ProcessFailure,
)
from torch.distributed.run import parse_args, run


def waited(failure: ProcessFailure) -> tuple[bool, int]:
    """Return whether a rank has only waited for another one, and when it has ended."""
    message = failure.error_file_data['message']
    extra = message.get('extraInfo', {}) if isinstance(message, dict) else {}
    return extra.get('waited', False), failure.timestamp


def cause(error: ChildFailedError) -> str:
    """Return why the first rank has failed that has not waited for another one."""
    rank, failure = min(error.failures.items(), key=lambda item: waited(item[1]))
    message = failure.message
    if isinstance(message, dict):
        message = message['message']
    elif failure.exitcode > 0:  # torch says how one could have known more.
        message = f'It has ended with status {failure.exitcode}, see above.'
    return f'Rank {rank}: {message}'


if __name__ == '__main__':
    try:
        run(parse_args(None))  # the arguments of the process
    except ChildFailedError as error:
        sys.exit(cause(error))
