"""What every command-line tool does between its arguments and the Runner."""

from ...utils.agreement import together
from ...utils.error_log import errors_in_log
from ...utils.same_config import require_same_config
from .checks import (
    check_data,
    check_own_arguments,
    check_steps,
    datasets,
    mention_batch,
)
from .config import (
    add_common_arguments,
    enable_auto_scale_lr,
    read_config,
    require_utf8,
    use_amp,
)
from .device import adapt_to_device, choose_threads
from .fast import make_fast, spelled_out
from .options import OptionAction
from .ranks import explained_waits, join_ranks, joined_on_error
from .resume import check_checkpoints
from .runner import build_runner, build_test_runner
from .speeds import LEVELS
from .work_dir import check_room, own_work_dir

__all__ = [
    'LEVELS',
    'OptionAction',
    'adapt_to_device',
    'add_common_arguments',
    'build_runner',
    'build_test_runner',
    'check_checkpoints',
    'check_data',
    'check_own_arguments',
    'check_room',
    'check_steps',
    'choose_threads',
    'datasets',
    'enable_auto_scale_lr',
    'errors_in_log',
    'explained_waits',
    'join_ranks',
    'joined_on_error',
    'make_fast',
    'mention_batch',
    'own_work_dir',
    'read_config',
    'require_same_config',
    'require_utf8',
    'spelled_out',
    'together',
    'use_amp',
]
