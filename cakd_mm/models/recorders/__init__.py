from .tap_recorder import TapParameterRecorder, TapRecorder

__all__ = ['TapParameterRecorder', 'TapRecorder']
