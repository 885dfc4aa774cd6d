from .bounded_history_hook import BoundedHistoryHook
from .deferred_info_hook import DeferredInfoHook
from .distill_epoch_hook import DistillEpochHook
from .distill_terms_hook import DistillTermsHook
from .distill_warmup_hook import DistillWarmupHook
from .extract_student_hook import ExtractStudentHook
from .finite_loss_hook import FiniteLossHook, NonFiniteError
from .label_range_hook import LabelRangeHook
from .sample_index_hook import SampleIndexHook
from .student_ema_hook import StudentEMAHook
from .student_runtime_hook import StudentRuntimeHook
from .teacher_images_hook import TeacherImagesHook
from .whole_checkpoint_hook import WholeCheckpointHook

__all__ = [
    'BoundedHistoryHook',
    'DeferredInfoHook',
    'DistillEpochHook',
    'DistillTermsHook',
    'DistillWarmupHook',
    'ExtractStudentHook',
    'FiniteLossHook',
    'LabelRangeHook',
    'NonFiniteError',
    'SampleIndexHook',
    'StudentEMAHook',
    'StudentRuntimeHook',
    'TeacherImagesHook',
    'WholeCheckpointHook',
]
