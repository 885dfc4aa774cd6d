"""The settings of docs/guides/speed.md, by name."""

from typing import Any

# What a page says of each speed.
SPEEDS = {
    'plain': 'All in float32, nothing of docs/guides/speed.md',
    'resident': 'All in float32, resident data',
    'lossless': 'All in float32, every lossless setting of docs/guides/speed.md',
    'bf16-teacher': 'Teachers compute in bf16, students in float32',
    'bf16': 'Trained in bf16 (autocast), scored in float32',
}
# Those of `tools/train.py --fast`. Each does all that the one before it does.
LEVELS = ('lossless', 'bf16-teacher', 'bf16')
# The parts of a speed.
RESIDENT_TRAIN = 'resident training set'
RESIDENT_VAL = 'resident validation set'
COMPILED_STUDENT = 'compiled student'
FAST_TEACHER = 'fast teacher'
BF16_TEACHER = 'bf16 teacher'
BF16_STUDENT = 'bf16 student'
# The config keys and values that switch each of them on.
PARTS: dict[str, dict[str, Any]] = {
    RESIDENT_TRAIN: {'train_cfg.resident': True},
    RESIDENT_VAL: {'val_cfg.type': 'ResidentValLoop'},
    COMPILED_STUDENT: {
        'default_hooks.student_runtime.type': 'StudentRuntimeHook',
    },
    FAST_TEACHER: {'model.teacher_runtime.dtype': 'float32'},
    BF16_TEACHER: {'model.teacher_runtime.dtype': 'bfloat16'},
    BF16_STUDENT: {
        'optim_wrapper.type': 'AmpOptimWrapper',
        'optim_wrapper.dtype': 'bfloat16',
    },
}


def parts_of(speed: str) -> list[str]:
    """Return the parts of a speed, in the order in which they are switched on."""
    parts = []
    if speed != 'plain':
        parts += [RESIDENT_TRAIN, RESIDENT_VAL]
    if speed in LEVELS:
        parts.append(COMPILED_STUDENT)
        parts.append(FAST_TEACHER if speed == 'lossless' else BF16_TEACHER)
    if speed == 'bf16':
        parts.append(BF16_STUDENT)
    return parts
