"""Students of many kinds as ONNX and torch.export: how far off they are, and how fast.

They have random weights and statistics, so that each layer changes what it is given.

    python benchmarks/exports.py --threads 1
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from common import ROOT, arguments, parse, save
from mmengine.config import Config
from mmpretrain import get_model
from mmpretrain.apis import ModelHub
from torch import nn

from cakd_mm.deployment import Wish, export

FORMATS = 'onnx', 'pt2'
# Names of mmpretrain, and the size of the images. Transformers keep their own.
STUDENTS = {
    'mobilenet-v3-small_8xb128_in1k': 64,
    'efficientnet-b0_3rdparty_8xb32_in1k': 64,
    'convnext-tiny_32xb128_in1k': 64,
    'repvgg-A0_8xb32_in1k': 64,
    'mobileone-s0_8xb32_in1k': 64,
    'deit-tiny_4xb256_in1k': 224,
    'swin-tiny_16xb64_in1k': 224,
    'levit-128s_3rdparty_in1k': 224,
    'conformer-tiny-p16_3rdparty_in1k': 224,
}
# What --quick exports.
QUICK = 'resnet8_digits'


def model_of(name: str) -> dict:
    """Return the config of a net of mmpretrain, or of our smallest one."""
    if name == QUICK:
        return Config.fromfile(ROOT / 'configs' / 'vanilla' / f'{QUICK}.py').model
    return ModelHub.get(name).config.model


def write_student(name: str, folder: Path) -> tuple[str, str]:
    """Write a net as training writes a student; return both files."""
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=model_of(name),
            data_preprocessor=dict(mean=[127.5] * 3, std=[60.0] * 3, to_rgb=True),
        )
    )
    torch.manual_seed(0)
    net = get_model(cfg)
    net.init_weights()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    config, checkpoint = folder / f'{name}.py', folder / f'{name}.pth'
    cfg.dump(config)
    torch.save(dict(meta={}, state_dict=net.state_dict()), checkpoint)
    return str(config), str(checkpoint)


def table(students: dict[str, dict[str, Any]]) -> str:
    """Return the measurements as a Markdown table."""
    head = 'student | pixels | student, ms | ONNX, ms | `.pt2`, ms '
    lines = [f'| {head}| difference, ONNX | difference, `.pt2` |', '|' + ' --- |' * 7]
    for name, row in students.items():
        found = row['measured']
        times = [f'{found[x]["milliseconds"]:.3g}' for x in ('student', *FORMATS)]
        differences = [f'{found[x]["difference"]:.1e}' for x in FORMATS]
        cells = [name, str(row['pixels']), *times, *differences]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def main() -> None:
    args = parse(arguments(__doc__))
    sizes = {QUICK: 16} if args.quick else STUDENTS
    students = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, pixels in sizes.items():
            files = write_student(name, Path(folder))
            wish = Wish(*files, out=None, formats=FORMATS, size=[pixels])
            students[name] = dict(pixels=pixels, measured=export(wish)['measured'])
    print(f'\n{table(students)}')
    save(args, 'exports', dict(students=students))


if __name__ == '__main__':
    main()
