"""What every command-line tool does between its arguments and the Runner."""

from .checks import check_data, datasets, mention_batch
from .config import add_common_arguments, enable_auto_scale_lr, read_config, use_amp
from .device import adapt_to_device, choose_threads
from .resume import check_checkpoints
from .runner import build_runner, build_test_runner

__all__ = [
    'adapt_to_device',
    'add_common_arguments',
    'build_runner',
    'build_test_runner',
    'check_checkpoints',
    'check_data',
    'choose_threads',
    'datasets',
    'enable_auto_scale_lr',
    'mention_batch',
    'read_config',
    'use_amp',
]
