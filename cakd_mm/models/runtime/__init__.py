from .teacher_runtime import TeacherRuntime, build_runtime, check_reach

__all__ = ['TeacherRuntime', 'build_runtime', 'check_reach']
