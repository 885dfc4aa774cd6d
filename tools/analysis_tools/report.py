"""Write a page about one run or several, as one file that opens without a network.

It shows top-1 and every term over the epochs with the seeds as bands, the table with
paired differences, what differs between the configs, and images that the distilled
student gets right and the same student alone got wrong, and the reverse.

Give the work dirs of runs with and without a teacher, or folders of some, however deep.
Runs whose configs differ in the seed alone are taken together.
"""

import argparse
from pathlib import Path

import cakd_mm  # noqa: F401  (first: makes mmrazor importable)
from cakd_mm.utils.tool_process import start_tool
from cakd_mm.utils.whole_file import write_whole
from cakd_mm.visualization.report.report import MOST_IMAGES, report
from cakd_mm.visualization.sweep import find_runs


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'work_dirs',
        type=Path,
        nargs='+',
        metavar='WORK_DIR',
        help='work dir of a run, or a folder of some',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('report.html'),
        help='the file to write, or a folder for report.html (default: report.html)',
    )
    parser.add_argument(
        '--images',
        type=int,
        default=MOST_IMAGES,
        help='validation images that the students are compared on, at most; 0: none '
        f'(default: {MOST_IMAGES}, evenly from the split)',
    )
    args = parser.parse_args()
    if args.images < 0:
        parser.error(
            f'--images {args.images}: it counts images; write {MOST_IMAGES}, say'
        )
    return args


def main() -> None:
    args = parse_args()
    page = report(find_runs(args.work_dirs), args.images, print)
    # Other tools take a folder as --out.
    out = args.out if args.out.suffix == '.html' else args.out / 'report.html'
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page)
    print(f'wrote {out}: open it in a browser')


if __name__ == '__main__':
    start_tool()
    main()
