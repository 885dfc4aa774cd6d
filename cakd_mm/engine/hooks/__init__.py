from .average_buffers_hook import AverageBuffersHook
from .bounded_history_hook import BoundedHistoryHook
from .class_names_hook import ClassNamesHook
from .deferred_info_hook import DeferredInfoHook
from .distill_epoch_hook import DistillEpochHook
from .distill_terms_hook import DistillTermsHook
from .distill_warmup_hook import DistillWarmupHook
from .end_with_launcher_hook import EndWithLauncherHook
from .exchanged_gradients_hook import ExchangedGradientsHook
from .extract_student_hook import ExtractStudentHook
from .finite_loss_hook import FiniteLossHook, NonFiniteError
from .gathered_scores_hook import GatheredScoresHook
from .label_range_hook import LabelRangeHook
from .packed_copies_hook import PackedCopiesHook
from .progress_hook import ProgressHook
from .runner_keys_hook import RunnerKeysHook
from .same_ranks_hook import SameRanksHook
from .sample_index_hook import SampleIndexHook
from .single_image_hook import SingleImageHook
from .student_ema_hook import StudentEMAHook
from .student_runtime_hook import StudentRuntimeHook
from .summary_hook import SummaryHook
from .teacher_images_hook import TeacherImagesHook
from .unlabelled_hook import UnlabelledHook
from .unused_parameters_hook import UnusedParametersHook
from .views_hook import ViewsHook
from .whole_checkpoint_hook import WholeCheckpointHook

__all__ = [
    'AverageBuffersHook',
    'BoundedHistoryHook',
    'ClassNamesHook',
    'DeferredInfoHook',
    'DistillEpochHook',
    'DistillTermsHook',
    'DistillWarmupHook',
    'EndWithLauncherHook',
    'ExchangedGradientsHook',
    'ExtractStudentHook',
    'FiniteLossHook',
    'GatheredScoresHook',
    'LabelRangeHook',
    'NonFiniteError',
    'PackedCopiesHook',
    'ProgressHook',
    'RunnerKeysHook',
    'SameRanksHook',
    'SampleIndexHook',
    'SingleImageHook',
    'StudentEMAHook',
    'StudentRuntimeHook',
    'SummaryHook',
    'TeacherImagesHook',
    'UnlabelledHook',
    'UnusedParametersHook',
    'ViewsHook',
    'WholeCheckpointHook',
]
