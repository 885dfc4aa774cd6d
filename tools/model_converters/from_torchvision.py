"""Convert torchvision's ResNet weights into an mmpretrain checkpoint."""

import argparse
from pathlib import Path

import cakd_mm  # noqa: F401
from cakd_mm.utils.torchvision_weights import (
    ARCHS,
    convert_torchvision,
    read_torchvision,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'source',
        help='a .pth file with a torchvision state dict, or the name of published '
        'weights to download (IMAGENET1K_V1)',
    )
    parser.add_argument('out', type=Path, help='where the mmpretrain checkpoint goes')
    parser.add_argument('--arch', choices=sorted(ARCHS), required=True)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    weights = read_torchvision(args.source, args.arch)
    convert_torchvision(weights, args.arch, args.out)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
