"""Convert a checkpoint of RepDistiller or mdistiller into one of mmpretrain.

Files of either are read as they are: a bare state dict, one under ``model`` beside
optimizer and options, a whole distiller. Nothing in them is executed.
"""

import argparse

import cakd_mm  # noqa: F401
from cakd_mm.utils import convert_repdistiller_state_dict
from cakd_mm.utils.checkpoint import read_foreign_weights
from cakd_mm.utils.convert import add_arguments, write_classifier
from cakd_mm.utils.repdistiller_weights import ARCHS
from cakd_mm.utils.tool_process import start_tool

REMEDY = 'Give a checkpoint that train_teacher.py or train_student.py has written.'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', help='the checkpoint to read')
    add_arguments(parser, ARCHS)
    parser.add_argument(
        '--part',
        choices=('student', 'teacher'),
        default='student',
        help="which net of mdistiller's distiller to take",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    weights = read_foreign_weights(args.source, 'source', REMEDY)
    weights = convert_repdistiller_state_dict(weights, args.part)
    write_classifier(
        weights, args.arch, ARCHS, args.out, 'repdistiller', args.num_classes
    )
    print(f'wrote {args.out}')


if __name__ == '__main__':
    start_tool()
    main()
