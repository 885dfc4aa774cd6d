from .head_recorder import HeadRecorder
from .tap_recorder import TapParameterRecorder, TapRecorder

__all__ = ['HeadRecorder', 'TapParameterRecorder', 'TapRecorder']
