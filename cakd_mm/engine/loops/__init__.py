from .resident import ResidentValLoop
from .resumable_iter_loop import ResumableIterLoop
from .resumable_train_loop import ResumableTrainLoop
from .student_teacher_val_loop import StudentTeacherValLoop

__all__ = [
    'ResidentValLoop',
    'ResumableIterLoop',
    'ResumableTrainLoop',
    'StudentTeacherValLoop',
]
