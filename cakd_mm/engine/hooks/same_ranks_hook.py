"""Sees to it that all ranks train the same weights, or that all stop."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import find_latest_checkpoint
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ...utils.agreement import exchange, require_same, together
from ...utils.checkpoint import fingerprint, hexadecimal, is_remote, read_checkpoint
from ...utils.error_log import errors_in_log
from ...utils.errors import describe
from ...utils.model import exchanged_parameters, is_of_all_ranks, unwrap
from ...utils.same_config import require_same_config

REMEDY = 'Give every node the same file under this path, or a work_dir that they share.'
# What only a run that goes on needs.
LEFT_OUT = ('optimizer', 'param_schedulers')
# How much of a hash is shown, and compared.
DIGITS = 16
# By the size of a number in bytes, a type of whole numbers that has the same bits.
WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@HOOKS.register_module()
class SameRanksHook(Hook):
    """Let all ranks train the same weights, or stop all of them.

    Every rank of mmengine reads its own config and loads for itself, so that nodes
    which share no disk could train different weights without a word. Before loading,
    ranks compare their configs (see :func:`require_same_config`), their teachers and
    what they find to load, and after it the numbers of epoch and iteration and a hash
    of the weights. A ``load_from`` that some ranks do not have is sent to them, unless
    the run is to go on from it. Before a validation and a ``WholeCheckpointHook``'s
    checkpoint they compare a sum of the bits of the weights that the ranks exchange
    gradients of, unless a wrapper with a process group or a communication hook of its
    own lets ranks differ. A single process does nothing of this. Put it into
    ``default_hooks``.

    Raises:
        ValueError: ranks differ; it says what each of them has found.
        OtherRankError: another rank has failed instead.
    """

    priority = 'HIGHEST'  # before any hook that uses the weights
    _is_compared = False
    # Holds what another rank has sent, until it is loaded.
    _folder: TemporaryDirectory | None = None

    def before_run(self, runner) -> None:
        """Compare configs, teachers, and what there is to load."""
        if get_world_size() > 1:
            # The loop, which writes its own errors there, has not begun yet.
            with errors_in_log(runner.logger):
                self._agree(runner)

    def _agree(self, runner) -> None:
        require_same_config(runner.cfg)
        _compare_teachers(unwrap(runner.model))
        path, is_there, found = _look(runner)
        plans = exchange((path is not None and not runner._resume, is_there))
        has = [is_there for _, is_there in plans]
        if all(takes_weights for takes_weights, _ in plans) and 0 < sum(has) < len(has):
            self._send(runner, has)
            return
        key = 'resume' if path is None or runner._resume else 'load_from'
        value = True if path is None else path
        problem = 'The ranks do not find the same to start from:'
        require_same(found, key, value, problem, REMEDY)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Remove what was sent."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def before_train(self, runner) -> None:
        """Compare what was loaded."""
        if self._is_compared or get_world_size() == 1:
            return
        self._is_compared = True
        found = f'epoch {runner.epoch}, iteration {runner.iter}'
        # Other wrappers give each rank a part of the weights.
        if isinstance(runner.model, DistributedDataParallel):
            weights = unwrap(runner.model).state_dict()
            whole = {k: v for k, v in weights.items() if type(v) is Tensor}
            found += f', weights {hexadecimal(fingerprint(whole))[:DIGITS]}'
        problem = 'The ranks have not loaded the same:'
        key = 'resume' if runner._resume else 'load_from'
        require_same(found, key, runner._load_from, problem, REMEDY)

    # Without training it is the first after loading.
    before_test = before_train

    def before_val(self, runner) -> None:
        """Compare what was loaded or, later, what was trained since."""
        if self._is_compared:
            _compare_weights(runner)
        else:
            self.before_train(runner)

    def before_checkpoint(self, runner) -> None:
        """Compare the weights, so that no rank saves others than the rest have."""
        _compare_weights(runner)

    def _send(self, runner, has: list[bool]) -> None:
        """Send the weights of ``load_from`` to the ranks that do not have the file.

        Args:
            runner (Runner): The runner.
            has (list[bool]): Which ranks have it.
        """
        source, path, content = has.index(True), runner._load_from, {}
        with together():
            if get_rank() == source:
                content = read_checkpoint(path, 'load_from', REMEDY)
                content = {k: v for k, v in content.items() if k not in LEFT_OUT}
        sent = [content]
        broadcast_object_list(sent, source)
        with together():
            if not has[get_rank()]:
                # mmengine and its hooks then load it as any other file.
                self._folder = TemporaryDirectory()
                runner._load_from = str(Path(self._folder.name, 'sent.pth'))
                torch.save(sent[0], runner._load_from)
        lacking = ', '.join(str(rank) for rank, there in enumerate(has) if not there)
        runner.logger.warning(
            describe(
                'load_from',
                path,
                f'Rank {lacking} cannot read it.',
                f'Rank {source} sends its weights.',
            )
        )


def _compare_teachers(model: torch.nn.Module) -> None:
    """Compare teachers, before mmengine gives all ranks the hash of the first."""
    if not hasattr(model, 'teacher_sha256'):
        return
    rows = torch.atleast_2d(model.teacher_sha256)
    hashes = [hexadecimal(row)[:DIGITS] for row in rows]
    found = f'SHA-256 {", ".join(hashes)}, {model.teacher_choice}'
    problem = 'The ranks have different teachers:'
    remedy = 'Give every node the same file and the same config.'
    require_same(found, 'model.teacher_ckpt', model.teacher_file, problem, remedy)
    # Nodes may have it under different paths. mmengine broadcasts all of the state
    # dict, whose entries have to be of one length then.
    model.teacher_file, *_ = exchange(model.teacher_file)


@torch.no_grad()
def _compare_weights(runner) -> None:
    """Compare the weights that a wrapper keeps equal on all ranks."""
    if get_world_size() == 1 or not is_of_all_ranks(runner.model):
        return
    sums = [
        weights.view(WHOLE.get(weights.element_size(), torch.uint8)).sum()
        for weights in exchanged_parameters(runner.model).values()
    ]
    # The host waits for the device once.
    bits = int(torch.stack(sums).sum()) if sums else 0
    found = f'weights whose bits add up to {bits}'
    problem = f'After {runner.iter} steps the ranks have different weights:'
    remedy = 'Look for what changes them on some ranks alone, such as a hook of yours.'
    key = 'default_hooks.same_ranks'
    require_same(found, key, 'SameRanksHook', problem, remedy)


def _look(runner) -> tuple[str | None, bool, str]:
    """Return what this rank is to load, whether it can be read, and what is there."""
    path = runner._load_from
    if path is None and runner._resume:
        path = find_latest_checkpoint(runner.work_dir)
    if path is None:
        return None, False, 'no checkpoint'
    if is_remote(path):
        return path, True, 'an address'
    try:
        with open(os.path.expanduser(path), 'rb') as file:
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        return path, False, f'no file that can be read ({error.strerror})'
    return path, True, f'a checkpoint of {size} bytes'
