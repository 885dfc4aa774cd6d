"""Renames weights of RepDistiller and mdistiller to those of this package's nets."""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from .checkpoint import strip_prefix
from .convert import Arch
from .errors import describe


def _wide(depth: int, factor: int) -> Arch:
    backbone = dict(type='CIFARWideResNet', depth=depth, widen_factor=factor)
    return Arch(backbone, 64 * factor)


def _times_four(depth: int) -> Arch:
    backbone = dict(type='CIFARResNet', depth=depth, widths=(32, 64, 128, 256))
    return Arch(backbone, 256)


ARCHS = {
    **{
        f'resnet{depth}': Arch(dict(type='CIFARResNet', depth=depth), 64)
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    **{f'resnet{depth}x4': _times_four(depth) for depth in (8, 32)},
    **{f'wrn{d}-{factor}': _wide(d, factor) for d in (16, 40) for factor in (1, 2)},
    'shufflenetv1': Arch(dict(type='CIFARShuffleNetV1'), 960),
    'shufflenetv2': Arch(dict(type='CIFARShuffleNetV2'), 1024),
    'mobilenetv1': Arch(dict(type='MobileNetV1'), 1024),
}
HEAD = (r'(?:fc|linear)\.(weight|bias)', r'head.fc.\1')
STAGED = (
    HEAD,
    (r'layer([123])\.(.+)', r'backbone.stage\1.\2'),
    (r'((?:conv|bn)[12]\..+)', r'backbone.\1'),
)
# A wide net of theirs normalises a sum at the beginning of the next block. Where the
# width changes, our nets do it at the end of the stage before.
WIDE = (
    HEAD,
    (r'block2\.layer\.0\.bn1\.(.+)', r'backbone.stage1_pre.\1'),
    (r'block3\.layer\.0\.bn1\.(.+)', r'backbone.stage2_pre.\1'),
    (r'bn1\.(.+)', r'backbone.stage3_pre.\1'),
    (r'block([123])\.layer\.(\d+)\.convShortcut\.(.+)',
     r'backbone.stage\1_sum.\2.shortcut.\3'),
    (r'block([123])\.layer\.(.+)', r'backbone.stage\1_sum.\2'),
    (r'(conv1\..+)', r'backbone.\1'),
)  # fmt: skip
# MobileNet has one list of all blocks: stage and block in that stage for each place.
BLOCKS = [(stage, i) for stage, n in enumerate((3, 2, 6, 2), 1) for i in range(n)]


def convert_repdistiller_state_dict(
    state_dict: Mapping[str, Tensor], part: str = 'student'
) -> dict[str, Tensor]:
    """Rename a reference net's weights to those of an mmpretrain ``ImageClassifier``.

    It knows the residual, wide residual and shuffle nets of RepDistiller and mdistiller
    and mdistiller's MobileNetV1 by their names. The ``module.`` of ``DataParallel`` is
    removed.

    Args:
        state_dict: Weights of a net, or of a whole distiller of mdistiller.
        part: The net to take from a distiller, ``'student'`` or ``'teacher'``.
            Defaults to ``'student'``.

    Raises:
        ValueError: a name belongs to none of these nets, or there is no such part.
    """
    weights = strip_prefix(state_dict, 'module.') or dict(state_dict)
    if any(name.startswith(('student.', 'teacher.')) for name in weights):
        weights = strip_prefix(weights, f'{part}.')
        if not weights:
            problem = 'The distiller in the file has no such net.'
            remedy = "Take the other of 'student' and 'teacher'."
            raise ValueError(describe('part', part, problem, remedy))
    rename = _renaming(weights)
    return {rename(name): value for name, value in weights.items()}


def _renaming(names: Mapping[str, Tensor]) -> Callable[[str], str]:
    if 'model.0.0.weight' in names:
        return _mobilenet
    rules = WIDE if 'block1.layer.0.bn1.weight' in names else STAGED
    patterns = [(re.compile(pattern), target) for pattern, target in rules]

    def rename(name: str) -> str:
        for pattern, target in patterns:
            if match := pattern.fullmatch(name):
                return match.expand(target)
        raise _unknown(name)

    return rename


def _mobilenet(name: str) -> str:
    """Rename ``model.4.3.weight``, say, the fourth block's second convolution."""
    if match := re.fullmatch(HEAD[0], name):
        return match.expand(HEAD[1])
    match = re.fullmatch(r'model\.(\d+)\.([0134])\.(.+)', name)
    if match is None or int(match[1]) > len(BLOCKS):
        raise _unknown(name)
    layer = {'0': 'conv1', '1': 'bn1', '3': 'conv2', '4': 'bn2'}[match[2]]
    place = int(match[1])
    if place == 0:
        return f'backbone.{layer}.{match[3]}'
    stage, block = BLOCKS[place - 1]
    return f'backbone.stage{stage}.{block}.{layer}.{match[3]}'


def _unknown(name: str) -> ValueError:
    problem = 'No net of RepDistiller or mdistiller that is converted here has that.'
    remedy = 'Give the weights of resnet*, wrn_*, ShuffleV1, ShuffleV2 or MobileNetV1.'
    return ValueError(describe('state_dict', name, problem, remedy))
