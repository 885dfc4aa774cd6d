"""Writes the plain student at the end of training."""

from collections.abc import Mapping
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS

from ...utils.checkpoint import logged_scores, read_checkpoint, scores_in, spell_out
from ...utils.class_names import names_in_dataset
from ...utils.extract import meta_of, save_student, student_weights
from ...utils.model import unwrap
from ...utils.net_config import net_config
from ...utils.type_names import require_names

# How mmpretrain's EMAHook ends the metrics of the trained weights, if it scores both.
OF_TRAINED = '_origin'


@HOOKS.register_module()
class ExtractStudentHook(Hook):
    """Write ``student.pth`` and ``student.py`` into the work dir after training.

    They are a plain mmpretrain checkpoint of the student after the last step and its
    config. Both are loaded back and compared, as
    ``tools/model_converters/extract_student.py`` does for any checkpoint. If an
    ``EMAHook`` averages the weights, the student's average is written to
    ``student_ema.pth``, and if the ``CheckpointHook`` keeps the best checkpoint, its
    student is written to ``student_best.pth`` (``student_best_<metric>.pth`` if there
    are several). Each has the names of the classes, and the scores of validation if
    these are of its own weights. The hook does nothing for a model without a teacher.
    Put it into ``default_hooks``.
    """

    # After the last checkpoint has been written.
    priority = 'LOWEST'
    # A run that is resumed with no step left may know the score of the weights before
    # the last ones alone.
    _is_scored = False

    def before_train(self, runner) -> None:
        """Put the student's config in place of its file, which may change.

        Raises:
            ValueError: the student has a class that no other config can name.
        """
        self._is_scored = False
        if hasattr(unwrap(runner.model), 'teacher') and 'model' in runner.cfg:
            net = runner.cfg.model.get('architecture')
            if isinstance(net, dict) and 'cfg_path' in net:
                runner.cfg.model.architecture = net_config(net, 'model.architecture')
            require_names(net, 'model.architecture')

    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        """Note that scores are those of this start."""
        self._is_scored = True

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Name the classes, from which a student may be extracted later."""
        if hasattr(unwrap(runner.model), 'teacher'):
            checkpoint['meta']['dataset_meta'] = _dataset_meta(runner)

    def after_train(self, runner) -> None:
        """Write the students, on the main process."""
        model = unwrap(runner.model)
        if not hasattr(model, 'teacher') or not is_main_process():
            return
        logged = scores_in(runner.message_hub.log_scalars) if self._is_scored else {}
        scores, average_scores = _by_weights(logged, runner)
        students = {'student.pth': (model.student, scores)}
        for hook in _averages(runner):
            average = hook.ema_model.module
            is_whole = hasattr(average, 'teacher')  # of mmengine's own hook
            average = average.student if is_whole else average
            students['student_ema.pth'] = average, average_scores
        for name, (student, scores) in students.items():
            path = Path(runner.work_dir) / name
            meta = dict(
                epoch=runner.epoch,
                iter=runner.iter,
                dataset_meta=_dataset_meta(runner),
                scores=scores,
            )
            save_student(runner.cfg, student.state_dict(), path, meta)
            result = spell_out(scores) or ['not scored by validation']
            runner.logger.info(
                f'The plain student is {path}, its config beside it; it is that of '
                f'{", ".join([_when(meta), "the last", *result])}.'
            )
        for metric, file in _best_checkpoints(runner).items():
            self._extract_best(runner, metric, file)

    def _extract_best(self, runner, metric: str, file: str) -> None:
        """Write the student of a checkpoint that ``save_best`` keeps."""
        checkpoint = read_checkpoint(file, 'default_hooks.checkpoint.save_best', '')
        average = average_is_scored(runner)
        trained, averaged = _by_weights(logged_scores(checkpoint), runner)
        meta = dict(meta_of(checkpoint), scores=averaged if average else trained)
        best = f'best_{metric.replace("/", "_")}' if metric else 'best'
        path = Path(runner.work_dir) / f'student_{best}.pth'
        save_student(runner.cfg, student_weights(checkpoint, ema=average), path, meta)
        runner.logger.info(
            f'The best student by save_best is {path}, that of '
            f'{", ".join([_when(meta), *spell_out(meta["scores"])])}. It was chosen by '
            'the validation set, whose score therefore is no estimate for other images.'
        )


def _averages(runner) -> list[EMAHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EMAHook)]


def average_is_scored(runner) -> bool:
    """Return whether validation scores an average, as mmpretrain's hook may not."""
    averages = _averages(runner)
    scored = all(getattr(hook, 'evaluate_on_ema', True) for hook in averages)
    return bool(averages) and scored


def _by_weights(
    scores: Mapping[str, float], runner
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the scores of the trained weights, and those of the average."""
    if not average_is_scored(runner):
        return dict(scores), {}
    trained: dict[str, float] = {}
    averaged: dict[str, float] = {}
    for name, value in scores.items():
        own = trained if name.endswith(OF_TRAINED) else averaged
        own[name.removesuffix(OF_TRAINED)] = value
    return trained, averaged


def _dataset_meta(runner) -> dict:
    """Return what the training set tells of itself.

    Images without labels have no names of classes. Then those of the validation set
    are added, or those of the teacher.
    """
    told = getattr(runner.train_dataloader.dataset, 'metainfo', {})
    if told.get('classes'):
        return told
    validated = getattr(runner.val_loop, 'dataloader', None)
    names = next((names for _, _, names in names_in_dataset(validated, '')), None)
    if names is None:
        teachers = getattr(unwrap(runner.model), 'teacher_class_names', ())
        names = next((one.scored for one in teachers if one.scored), None)
    return dict(told, classes=names) if names else told


def _when(meta: dict) -> str:
    """Return the student's epoch, or its iteration in a loop without epochs."""
    return f'epoch {meta["epoch"]}' if meta['epoch'] else f'iteration {meta["iter"]}'


def _best_checkpoints(runner) -> dict[str, str]:
    """Return the file of the best checkpoint, by metric if there are several."""
    return {
        name.removeprefix('best_ckpt').removeprefix('_'): file
        for name, file in runner.message_hub.runtime_info.items()
        if name.startswith('best_ckpt') and file and Path(file).is_file()
    }
