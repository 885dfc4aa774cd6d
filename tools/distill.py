"""Distil a student for one's own images: a folder with a folder for each class.

Writes configs that can be read and changed into --out, trains the teacher there unless
its weights are given, trains the student with it, and tells the scores and where
everything lies. The same command goes on where it was stopped.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

import cakd_mm  # noqa: F401  (before any config is read: registers `cakd_mm::`)
from cakd_mm.own_images import Options, Run, distill
from cakd_mm.utils.tool_process import start_tool

NET = (
    'a net of mmpretrain or cakd_mm by name, timm:NAME, torchvision:NAME, hf:FOLDER of '
)
NET += 'a saved model, package::config, or the path of a config'


def parse_args(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='What follows `--` is given to tools/train.py: -- --amp',
    )
    parser.add_argument(
        'data',
        type=Path,
        metavar='DATA',
        help='folder with one folder of images for each class, or with train/ and val/ '
        'that have these; it is only read',
    )
    parser.add_argument('--teacher', required=True, help=NET)
    parser.add_argument(
        '--teacher-ckpt',
        help='weights of the teacher; if they know other classes, its training begins '
        'with them; default: those in the folder of hf:FOLDER',
    )
    parser.add_argument('--student', required=True, help=NET)
    parser.add_argument(
        '--student-ckpt',
        help='weights that the student begins with, with its teacher and alone; '
        'default: likewise',
    )
    parser.add_argument(
        '--method', default='cakd', help='cakd, kd, dkd, ... (default: cakd)'
    )
    parser.add_argument(
        '--alone',
        action='store_true',
        help='train the student without the teacher too, to compare',
    )
    parser.add_argument(
        '--out', type=Path, help='folder of results (default: work_dirs/distill_<DATA>)'
    )
    parser.add_argument(
        '--epochs', type=int, help='default: 30; of photographs on a GPU 100'
    )
    parser.add_argument(
        '--size', type=int, help='pixels; default: 32, 64 or 224, as the images are'
    )
    parser.add_argument(
        '--batch-size', type=int, help='of each GPU; default: 64, less for few images'
    )
    parser.add_argument(
        '--val-share',
        type=float,
        default=0.2,
        help='of each class for validation, if there is no val/ (default: 0.2)',
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='of the split and of training (default: 0)'
    )
    parser.add_argument(
        '--configs-only',
        action='store_true',
        help='write and try the configs, to be changed, and train nothing',
    )
    parser.add_argument('--gpus', type=int, default=1, help='default: 1')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='settings of every training, as for tools/train.py',
    )
    args = parser.parse_args(words)
    if args.gpus < 1:
        parser.error(f'--gpus {args.gpus}: it counts processes; write 1, say')
    return args


def main() -> None:
    words, arguments = sys.argv[1:], []
    if '--' in words:
        end = words.index('--')
        words, arguments = words[:end], words[end + 1 :]
    given = vars(parse_args(words))
    run = Run(*(given.pop(x) for x in ('alone', 'gpus', 'configs_only')), arguments)
    if options := given.pop('cfg_options'):
        run.arguments.extend(['--cfg-options', *options])
    out = given.pop('out')
    asked = Options(**given)
    if out is None:
        out = Path('work_dirs', f'distill_{Path(os.path.abspath(asked.data)).name}')
    try:
        distill(asked, out, run)
    except KeyboardInterrupt:
        print('\nStopped. The same command goes on from here.', file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


if __name__ == '__main__':
    start_tool()
    main()
