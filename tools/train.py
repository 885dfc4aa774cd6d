"""Train a teacher, a plain student, or a student with its teacher."""

import argparse
import sys

import cakd_mm  # noqa: F401  (before any config is read: registers `cakd_mm::`)
from cakd_mm.engine import launch
from cakd_mm.utils.tool_process import start_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or cakd_mm::cakd/<name>.py')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='checkpoint to go on from; without a path, the newest of the work dir',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision: fp16 with loss scaling on a GPU, bf16 on a CPU',
    )
    parser.add_argument(
        '--fast',
        nargs='?',
        choices=launch.LEVELS,
        const=launch.LEVELS[0],
        help='resident data, a fast teacher and a compiled student where that goes, '
        'with equal results; bf16-teacher and bf16 also compute the teacher, or all, '
        'in bf16 if that pays on this machine',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the batch size (auto_scale_lr)',
    )
    launch.add_common_arguments(parser)
    return parser.parse_args(launch.spelled_out(sys.argv[1:]))


def main() -> None:
    args = parse_args()
    with launch.together(), launch.joined_on_error(args.launcher):
        cfg = launch.read_config(args)
        if args.amp:
            launch.use_amp(cfg)
        if args.resume is not None:
            cfg.resume = True
            cfg.load_from = None if args.resume == 'auto' else args.resume
        if args.auto_scale_lr:
            launch.enable_auto_scale_lr(cfg)
        launch.join_ranks(cfg)
        launch.require_same_config(cfg)
        launch.check_own_arguments(cfg)
        launch.check_checkpoints(cfg)
        launch.check_data(cfg, ('train', 'val'))
    with (
        launch.own_work_dir(cfg),
        launch.errors_in_log(),
        launch.explained_waits(cfg),
    ):
        with launch.together():
            launch.adapt_to_device(cfg)
            hooks = cfg.get('default_hooks') or {}
            runner = launch.build_runner(cfg)
            if args.fast is not None:
                launch.make_fast(runner, args.fast, hooks)
            launch.check_room(runner)
            launch.check_steps(runner)
            launch.mention_batch(runner)
        runner.train()


if __name__ == '__main__':
    start_tool()
    main()
