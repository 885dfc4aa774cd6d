"""Write a student as ONNX and as a program of torch.export, and compare them with it.

The files take any number of images of one size and give logits. What images these are
and the names of the classes is in the files themselves, and in a .json beside them. A
file is written only if its scores are the student's, to 1e-5 of the largest one.
"""

import argparse
from pathlib import Path

import cakd_mm  # noqa: F401  (before any config is read: registers `cakd_mm::`)
from cakd_mm.deployment import Wish, export
from cakd_mm.deployment.formats import FORMATS
from cakd_mm.utils.tool_process import start_tool


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{number} is not positive')
    return number


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config', help='student.py, or another plain config of a classifier'
    )
    parser.add_argument('checkpoint', help='student.pth, which lies beside it')
    parser.add_argument(
        '--out',
        type=Path,
        metavar='FILE',
        help='default: beside the checkpoint, named after it',
    )
    parser.add_argument(
        '--format',
        nargs='+',
        choices=FORMATS,
        default=list(FORMATS),
        dest='formats',
        help='default: onnx pt2',
    )
    parser.add_argument(
        '--size',
        nargs='+',
        type=positive,
        metavar='PIXELS',
        help='height and width, or one number for both; default: as the test images '
        'of the config',
    )
    parser.add_argument(
        '--batch-size',
        type=positive,
        metavar='N',
        help='files that take N images and no other number; default: any number',
    )
    parser.add_argument(
        '--normalize',
        action='store_true',
        help='files that take RGB images of 0 to 255, and subtract the mean and divide '
        'by the deviation themselves; default: they take what the net takes',
    )
    parser.add_argument(
        '--probabilities',
        action='store_true',
        help='files that give probabilities, by softmax or sigmoid as the student '
        'predicts; default: logits',
    )
    parser.add_argument(
        '--as-trained',
        action='store_true',
        help='leave the branches that RepVGG, MobileOne and others have for training; '
        'default: they are merged',
    )
    parser.add_argument(
        '--opset', type=positive, help='version of the operators of ONNX'
    )
    args = parser.parse_args()
    if args.size and len(args.size) > 2:
        parser.error('--size takes one or two numbers')
    return args


def main() -> None:
    export(Wish(**vars(parse_args())))


if __name__ == '__main__':
    start_tool()
    main()
