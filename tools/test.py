"""Score a checkpoint: a plain classifier's, or a distilled student's."""

import argparse

from mmengine.config import ConfigDict

import cakd_mm  # noqa: F401  (before any config is read: registers `cakd_mm::`)
from cakd_mm.engine import launch
from cakd_mm.utils.tool_process import start_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='the config the checkpoint was trained with')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', help='pickle file for predictions')
    launch.add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with launch.together(), launch.joined_on_error(args.launcher):
        cfg = launch.read_config(args)
        if args.out:
            dump = ConfigDict(type='DumpResults', out_file_path=args.out)
            own = cfg.test_evaluator
            cfg.test_evaluator = [*own, dump] if isinstance(own, list) else [own, dump]
        launch.join_ranks(cfg)
        launch.require_same_config(cfg)
        launch.check_own_arguments(cfg)
        launch.check_data(cfg, ('test',))
    with launch.errors_in_log(), launch.explained_waits(cfg):
        with launch.together():
            launch.adapt_to_device(cfg)
            runner = launch.build_test_runner(cfg, args.checkpoint)
        runner.test()


if __name__ == '__main__':
    start_tool()
    main()
