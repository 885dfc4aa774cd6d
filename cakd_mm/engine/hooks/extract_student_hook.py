"""Writes the plain student at the end of training."""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ...utils.extract import save_student
from ...utils.model import unwrap
from .student_ema_hook import StudentEMAHook


@HOOKS.register_module()
class ExtractStudentHook(Hook):
    """Write ``student.pth`` and ``student.py`` into the work dir after training.

    A plain mmpretrain checkpoint of the last step's student and its config,
    loaded back and compared, as ``tools/model_converters/extract_student.py``
    does for any checkpoint. If a ``StudentEMAHook`` averages the student, the
    average is written too, to ``student_ema.pth``. Does nothing for a model
    without a teacher. Put it into ``default_hooks``.
    """

    # After the last checkpoint has been written.
    priority = 'LOWEST'

    def after_train(self, runner) -> None:
        """Extract on the main process."""
        model = unwrap(runner.model)
        if not hasattr(model, 'teacher') or not is_main_process():
            return
        students = {'student.pth': model.student}
        for hook in runner.hooks:
            if isinstance(hook, StudentEMAHook):
                students['student_ema.pth'] = hook.ema_model.module
        meta = dict(
            epoch=runner.epoch,
            iter=runner.iter,
            dataset_meta=getattr(runner.train_dataloader.dataset, 'metainfo', None),
        )
        for name, student in students.items():
            path = Path(runner.work_dir) / name
            save_student(runner.cfg, student.state_dict(), path, meta)
            runner.logger.info(f'The plain student is {path}, its config beside it.')
