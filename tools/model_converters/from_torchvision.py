"""Convert torchvision's weights into an mmpretrain checkpoint."""

import argparse

import cakd_mm  # noqa: F401
from cakd_mm.utils.convert import add_arguments, write_classifier
from cakd_mm.utils.tool_process import start_tool
from cakd_mm.utils.torchvision_weights import (
    ARCHS,
    convert_torchvision_state_dict,
    read_torchvision,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'source',
        help='a .pth file with a torchvision state dict, or the name of published '
        'weights to download (IMAGENET1K_V1)',
    )
    add_arguments(parser, ARCHS)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    weights = read_torchvision(args.source, args.arch)
    weights = convert_torchvision_state_dict(weights)
    write_classifier(
        weights, args.arch, ARCHS, args.out, 'torchvision', args.num_classes
    )
    print(f'wrote {args.out}')


if __name__ == '__main__':
    start_tool()
    main()
