from .half_precision import PAYS, convolution_seconds, seconds_per_image
from .teacher_runtime import TeacherRuntime, build_runtime, check_reach, unreached

__all__ = [
    'PAYS',
    'TeacherRuntime',
    'build_runtime',
    'check_reach',
    'convolution_seconds',
    'seconds_per_image',
    'unreached',
]
