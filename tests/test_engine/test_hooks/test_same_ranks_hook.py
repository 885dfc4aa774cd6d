"""All ranks have the same config, teacher and weights, or all stop.

Each rank of these tests has a work dir of its own, as on nodes that share no disk.
"""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from ranks import two_ranks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cakd_mm.engine.hooks import SameRanksHook
from cakd_mm.utils.checkpoint import fingerprint

HOST = os.uname().nodename
CHOICE = '{"": {}}'


class Net(nn.Linear):
    """What a distillation says of its teacher, and some weights."""

    def __init__(self, seed: int, file: str = '') -> None:
        super().__init__(2, 2)
        self.teacher_sha256 = torch.full((32,), seed, dtype=torch.uint8)
        self.teacher_file, self.teacher_choice = file, CHOICE


def runner(folder: Path, model: nn.Module, **options) -> SimpleNamespace:
    """Return what the hook sees of a Runner whose work dir is ``folder``."""
    folder.mkdir(exist_ok=True)
    log = folder / 'run.log'
    logger = MMLogger.get_instance(folder.name, log_file=str(log))
    known = dict(model=model, work_dir=str(folder), logger=logger, epoch=1, iter=5)
    known['cfg'] = Config()
    return SimpleNamespace(**{'_load_from': None, '_resume': False, **known, **options})


def error_of(action: Callable, *arguments) -> str:
    try:
        action(*arguments)
    except ValueError as error:
        return str(error)
    return ''


def wrapped(value: float) -> nn.Module:
    """Return a model as it is after loading."""
    model = DistributedDataParallel(nn.Linear(2, 2))
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    return model


def test_other_teachers_are_refused_and_other_paths_made_one(tmp_path):
    def work(rank: int) -> tuple[str, str]:
        here = tmp_path / f'node{rank}'
        other = runner(here, Net(seed=rank, file='t.pth'))
        same = runner(here, Net(seed=7, file=f'disk{"x" * rank}/t.pth'))
        found = error_of(SameRanksHook().before_run, other)
        SameRanksHook().before_run(same)
        return found, same.model.teacher_file

    for rank, (found, file) in enumerate(two_ranks(work, tmp_path)):
        assert file == 'disk/t.pth'
        assert found == (
            "`model.teacher_ckpt` = 't.pth': The ranks have different teachers: "
            f'rank 0 on {HOST}: SHA-256 {"00" * 8}, {CHOICE}; '
            f'rank 1 on {HOST}: SHA-256 {"01" * 8}, {CHOICE}. '
            'Give every node the same file and the same config.'
        )
        # The loop, which writes its own errors there, has not begun.
        log = (tmp_path / f'node{rank}' / 'run.log').read_text()
        assert f'Rank {rank} of 2 on {HOST} ended with an error' in log
        assert found in log


def test_a_run_goes_on_only_where_each_finds_a_checkpoint(tmp_path):
    def work(rank: int) -> list[str]:
        here = tmp_path / f'node{rank}'
        hook, found = SameRanksHook(), []
        last = here / 'epoch_1.pth'

        def resume(**options) -> None:
            ours = runner(here, nn.Linear(2, 2), _resume=True, **options)
            found.append(error_of(hook.before_run, ours).replace(str(last), 'PATH'))

        resume()
        if rank == 0:
            last.write_bytes(b'12345')
            (here / 'last_checkpoint').write_text(str(last))
        resume()
        resume(_load_from=str(last))
        if rank == 1:
            last.write_bytes(b'123')  # cut
        resume(_load_from=str(last))
        last.write_bytes(b'54321')
        resume(_load_from=str(last))
        resume(_load_from='https://x.org/epoch_1.pth')
        return found

    first, second = two_ranks(work, tmp_path)
    start = 'The ranks do not find the same to start from: '
    start += f'rank 0 on {HOST}: a checkpoint of 5 bytes; rank 1 on {HOST}: '
    remedy = 'Give every node the same file under this path, or a work_dir that they '
    remedy += 'share.'
    missing = f'{start}no file that can be read (No such file or directory). {remedy}'
    cut = f'{start}a checkpoint of 3 bytes. {remedy}'
    named, auto = "`resume` = 'PATH': ", '`resume` = True: '
    none = f'{start}no checkpoint. {remedy}'
    assert first == ['', f'{named}{none}', f'{named}{missing}', f'{named}{cut}', '', '']
    assert second == ['', f'{auto}{none}', f'{named}{missing}', f'{named}{cut}', '', '']


@pytest.mark.parametrize('stage', ['before_train', 'before_val', 'before_test'])
def test_what_was_loaded_is_compared_once(tmp_path, stage):
    def work(rank: int) -> list[str]:
        here, found = tmp_path / f'node{rank}', []
        resumed = dict(iter=rank, _resume=True)
        for weight, change in ((rank, {}), (1, resumed), (1, {})):
            ours = runner(here, wrapped(weight), _load_from='x.pth', **change)
            found.append(error_of(getattr(SameRanksHook(), stage), ours))
        hook = SameRanksHook()
        hook.before_train(ours)
        ours.iter += rank  # It is not compared again, at each validation, say.
        getattr(hook, stage)(ours)
        # Another wrapper has a part of the weights on each rank.
        apart = runner(here, wrapped(rank).module)
        return [*found, error_of(getattr(SameRanksHook(), stage), apart)]

    first, second = two_ranks(work, tmp_path)
    zero, one = (
        hash_of(torch.full((2, 2), x), torch.full((2,), x)) for x in (0.0, 1.0)
    )
    start = " = 'x.pth': The ranks have not loaded the same: "
    assert first == second
    assert first[0].startswith(
        f'`load_from`{start}rank 0 on {HOST}: epoch 1, iteration 5, weights {zero}; '
        f'rank 1 on {HOST}: epoch 1, iteration 5, weights {one}. Give every node'
    )
    assert first[1].startswith(
        f'`resume`{start}rank 0 on {HOST}: epoch 1, iteration 0, weights {one}; '
        f'rank 1 on {HOST}: epoch 1, iteration 1, weights {one}. Give every node'
    )
    assert first[2:] == ['', '']


def hash_of(weight: Tensor, bias: Tensor) -> str:
    digest = fingerprint(dict(weight=weight, bias=bias))
    return bytes(digest.tolist()).hex()[:16]


def test_weights_that_one_rank_has_are_sent_to_the_other(tmp_path):
    """Either may have them, but no rank may be left without."""
    content = dict(state_dict=dict(w=torch.arange(3.0)), meta=dict(epoch=4))

    def work(rank: int) -> list:
        here = tmp_path / f'node{rank}'
        found = []
        for owner in range(2):
            path = tmp_path / f'{owner}-of-{rank}.pth'
            if rank == owner:
                torch.save(dict(content, optimizer=dict(large=1)), path)
            ours = runner(here, nn.Linear(2, 2), _load_from=str(path))
            hook = SameRanksHook()
            hook.before_run(ours)
            given = Path(ours._load_from)
            loaded = torch.load(given, weights_only=False)
            hook.after_load_checkpoint(ours, loaded)
            found.append((given == path, given.exists(), loaded))
        ours._load_from = 'nowhere.pth'
        SameRanksHook().before_run(ours)  # mmengine says so itself.
        broken = tmp_path / f'{rank}.pth'
        if rank == 1:
            broken.write_bytes(b'broken')
        ours._load_from = str(broken)
        with pytest.raises((ValueError, RuntimeError)) as caught:
            SameRanksHook().before_run(ours)
        return [*found, f'{caught.typename}: {caught.value}']

    for rank, (*sent, broken) in enumerate(two_ranks(work, tmp_path)):
        for owner, (is_own, is_left, loaded) in enumerate(sent):
            assert (is_own, is_left) == (rank == owner, rank == owner)
            assert torch.equal(loaded['state_dict']['w'], torch.arange(3.0))
            assert loaded['meta'] == dict(epoch=4)
            assert ('optimizer' in loaded) == is_own
        kind = ('OtherRankError', 'ValueError')[rank]
        assert broken.startswith(kind)
        assert 'cannot be read as a checkpoint' in broken
    log = (tmp_path / 'node0' / 'run.log').read_text()
    path = tmp_path / '0-of-0.pth'
    assert (
        f"`load_from` = '{path}': Rank 1 cannot read it. Rank 0 sends its weights."
    ) in log


def test_weights_that_drift_apart_are_neither_scored_nor_saved(tmp_path):
    def work(rank: int) -> list:
        net = nn.Linear(2, 2)
        net.register_parameter('short', nn.Parameter(torch.ones(3).bfloat16()))
        net.part = nn.ParameterDict(dict(own=torch.ones(rank + 1)))
        net.register_parameter('frozen', nn.Parameter(torch.tensor(rank / 2), False))
        net.register_buffer('count', torch.tensor(rank))
        ignored = ['part.own', 'frozen', 'count']
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            net, ignored
        )
        model = DistributedDataParallel(net)
        ours, hook = runner(tmp_path / f'node{rank}', model, iter=12), SameRanksHook()
        hook.before_train(runner(tmp_path / f'node{rank}', nn.Identity()))
        found = []
        for change in (0, rank):
            net.short.data[0] += change / 64
            for stage in (hook.before_val, hook.before_checkpoint):
                found.append(error_of(stage, ours))
        # Such a wrapper lets ranks differ until it takes their mean.
        model._comm_hooks.append(None)
        hook.before_checkpoint(ours)
        return found

    first, second = two_ranks(work, tmp_path)
    assert first == second
    assert first[:2] == ['', '']
    for text in first[2:]:
        assert 'After 12 steps the ranks have different weights: rank 0' in text
        assert text.count('weights whose bits add up to ') == 2


def test_other_configs_are_refused(tmp_path):
    def work(rank: int) -> str:
        cfg = Config(dict(train_cfg=dict(max_epochs=2 + rank)))
        here = tmp_path / f'node{rank}'
        return error_of(SameRanksHook().before_run, runner(here, Net(0), cfg=cfg))

    for found in two_ranks(work, tmp_path):
        assert 'The ranks have different configs: rank 0 on' in found


def test_a_single_process_compares_nothing():
    hook = SameRanksHook()
    for stage in ('run', 'train', 'val', 'test', 'checkpoint'):
        getattr(hook, f'before_{stage}')(None)
