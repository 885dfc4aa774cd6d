"""Checkpoints of which a kill at any moment leaves a whole one."""

from fnmatch import fnmatchcase
from inspect import signature
from logging import LogRecord
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS

from ...utils.arguments import parameters_of
from ...utils.errors import describe, nearest
from ...utils.newest_checkpoint import pattern_of
from ...utils.whole_file import PART, write_whole

KEY = 'default_hooks.checkpoint'
BACKEND = 'whole_local'
# Entry of the message hub, and so of checkpoints: names of files to be removed once
# the checkpoint is written.
OUTDATED = 'outdated_checkpoints'


class WholeLocalBackend(LocalBackend):
    """Writes local files whole or not at all."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file; see :func:`write_whole`."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, obj)


register_backend(BACKEND, WholeLocalBackend, force=True)


class _LateRemoval:
    """A file backend that only notes the names of what it is asked to remove."""

    def __init__(self, backend: Any, names: list[str]) -> None:
        self.backend = backend
        self.names = names

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, filepath: str) -> None:
        self.names.append(Path(filepath).name)

    rmtree = remove


# How mmengine warns of the classes of its own that its hook uses.
ALIASES = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias of')


def _is_no_alias(record: LogRecord) -> bool:
    return not record.getMessage().startswith(ALIASES)


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """:class:`mmengine.CheckpointHook` that loses nothing when the run is killed.

    mmengine removes an old checkpoint before it writes the new one, and a kill while a
    checkpoint or ``last_checkpoint`` is written leaves part of the file. Here local
    files are written whole or not at all, and an old one is removed after the new one
    is there. What a kill has left is removed when the run goes on. A config with
    ``CheckpointHook`` gets this hook from :func:`cakd_mm.engine.launch.build_runner`.

    Args:
        **kwargs: As in mmengine (``interval``, ``max_keep_ckpts``, ...).
    """

    file_backend: Any

    def before_train(self, runner) -> None:
        """Remove what a kill has left, once the checkpoint is loaded.

        Raises:
            TypeError: a key is no argument, so that no checkpoint could be saved.
        """
        # mmengine keeps them for `save_checkpoint`, which comes after a whole epoch.
        for name in self.args.keys() - signature(runner.save_checkpoint).parameters:
            key = f'{KEY}.{name}'
            like = f'Like it: {nearest(name, parameters_of(CheckpointHook)[0])}.'
            problem = f'{type(self).__name__} has no such argument.'
            raise TypeError(describe(key, self.args[name], problem, like))
        if self.file_client_args is None:  # or the config has named the aliases
            MMLogger.get_current_instance().addFilter(_is_no_alias)
        super().before_train(runner)
        if isinstance(self.file_backend, LocalBackend):
            self.backend_args = dict(backend=BACKEND)
            if is_main_process():
                ending = Path(self.filename_tmpl).suffix + PART
                for left in Path(self.out_dir).glob(f'*{ending}'):
                    left.unlink()
        # A checkpoint from outside may name anything.
        own = f'*{pattern_of(self.filename_tmpl)}'
        noted = map(str, runner.message_hub.get_info(OUTDATED, []))
        names = [x for x in noted if x == Path(x).name and fnmatchcase(x, own)]
        self.file_backend = _LateRemoval(self.file_backend, names)
        self._remove_outdated(runner)

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        """Save, name the file in ``last_checkpoint``, and remove the outdated ones.

        All ranks get here, and ``before_checkpoint`` and ``after_checkpoint`` of the
        hooks are called on all of them; mmengine calls ``before_save_checkpoint`` on
        the main rank alone.
        """
        runner.call_hook('before_checkpoint')
        hub, backend = runner.message_hub, self.file_backend
        if self.max_keep_ckpts > 0 and step not in list(self.keep_ckpt_ids)[-1:]:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                backend.remove(self.filename_tmpl.format(self.keep_ckpt_ids[0]))
            self.keep_ckpt_ids.append(step)  # and the first one leaves
            hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = backend.join_path(self.out_dir, name)
        hub.update_info('last_ckpt', self.last_ckpt)
        hub.update_info(OUTDATED, list(backend.names))
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            file = Path(runner.work_dir, 'last_checkpoint')
            write_whole(file, str(self.last_ckpt).encode())
        self._remove_outdated(runner)
        runner.call_hook('after_checkpoint')

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        """Save a better checkpoint, and then remove the one that was the best.

        ``before_checkpoint`` of the hooks is called on all ranks first.
        """
        if self.save_best:
            runner.call_hook('before_checkpoint')
        super()._save_best_checkpoint(runner, metrics)
        if self.save_best:
            self._remove_outdated(runner)
            # mmengine may save the last one again, which it does not do in a run that
            # was resumed and has not saved yet. Both have to go on alike.
            runner.call_hook('after_checkpoint')

    def _remove_outdated(self, runner) -> None:
        late = self.file_backend
        entries = runner.message_hub.runtime_info.items()
        # A best checkpoint may have got the name of the one before.
        needed = {
            Path(str(value)).name
            for key, value in entries
            if key.startswith(('last_ckpt', 'best_ckpt'))
        }
        names = set(late.names) - needed if is_main_process() else set()
        late.names.clear()
        for name in names:
            path = late.join_path(self.out_dir, name)
            if late.isfile(path):
                late.backend.remove(path)
            elif late.isdir(path):  # deepspeed's checkpoints are folders
                late.backend.rmtree(path)
