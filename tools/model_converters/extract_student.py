"""Write the plain mmpretrain student of a distillation checkpoint."""

import argparse
from pathlib import Path

import cakd_mm  # noqa: F401
from cakd_mm.utils.checkpoint import read_checkpoint
from cakd_mm.utils.extract import meta_of, save_student, student_weights
from cakd_mm.utils.net_config import read_named
from cakd_mm.utils.tool_process import start_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='the distillation config')
    parser.add_argument('checkpoint', help='a checkpoint trained with it')
    parser.add_argument(
        '--out',
        type=Path,
        help='default: <checkpoint>_student.pth, or <checkpoint>_student_ema.pth with '
        '--ema; a .py goes beside',
    )
    parser.add_argument(
        '--ema', action='store_true', help='take the averaged weights (of an EMAHook)'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    source = Path(args.checkpoint)
    remedy = 'Give an epoch_*.pth or iter_*.pth of a distillation run.'
    checkpoint = read_checkpoint(args.checkpoint, 'checkpoint', remedy)
    ending = 'student_ema' if args.ema else 'student'
    out = args.out or source.with_name(f'{source.stem}_{ending}.pth')
    weights = student_weights(checkpoint, ema=args.ema)
    cfg = read_named(args.config, 'config')
    save_student(cfg, weights, out, meta=meta_of(checkpoint))
    print(f'wrote {out} and {out.with_suffix(".py")}; outputs equal the distilled ones')
    if 'ema_state_dict' in checkpoint and not args.ema:
        print('the checkpoint also holds averaged weights: --ema takes those')


if __name__ == '__main__':
    start_tool()
    main()
