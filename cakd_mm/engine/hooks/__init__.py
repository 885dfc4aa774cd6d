from .distill_terms_hook import DistillTermsHook
from .distill_warmup_hook import DistillWarmupHook
from .extract_student_hook import ExtractStudentHook
from .finite_loss_hook import FiniteLossHook, NonFiniteError
from .label_range_hook import LabelRangeHook
from .student_ema_hook import StudentEMAHook

__all__ = [
    'DistillTermsHook',
    'DistillWarmupHook',
    'ExtractStudentHook',
    'FiniteLossHook',
    'LabelRangeHook',
    'NonFiniteError',
    'StudentEMAHook',
]
