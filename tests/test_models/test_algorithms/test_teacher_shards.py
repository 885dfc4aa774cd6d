"""A teacher whose weights are shared out among ranks teaches as a whole one does."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from ranks import two_ranks
from tiny import algorithm, build, digits_config, save_teacher
from tiny_runs import feature_config
from torch import nn

from cakd_mm.compat import SHARDING_TORCH, find_fully_shard
from cakd_mm.engine.loops import StudentTeacherValLoop
from cakd_mm.models.algorithms import teacher_shards
from cakd_mm.models.algorithms.teacher_shards import local_part, units_of

can_shard = pytest.mark.skipif(
    find_fully_shard() is None, reason=f'needs torch>={SHARDING_TORCH}'
)


def batch(rank):
    generator = torch.Generator().manual_seed(rank)
    samples = [DataSample().set_gt_label(i) for i in range(4)]
    images = torch.randint(256, (4, 3, 16, 16), generator=generator)
    return dict(inputs=list(images.to(torch.uint8)), data_samples=samples)


def config(folder, shard, **model):
    """A feature loss, whose scorer gets the weight of the teacher's head, and logits.

    It has the teacher's checkpoint from the start, so that both ranks find it.
    """
    cfg = Config.fromfile(folder / 'feature.py')
    cfg.model.update(
        teacher_ckpt=str(folder / 'teacher.pth'), teacher_shard=shard, **model
    )
    return cfg


def steps(model, rank):
    """Train two steps; return all losses and weights."""
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    wrapper = OptimWrapper(
        torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9),
        clip_grad=dict(max_norm=1.0),
    )
    logs = []
    for _ in range(2):
        logs.append(list(wrapped.train_step(batch(rank), wrapper).values()))
        if rank == 0:  # which alone writes checkpoints, and may not wait for the other
            model.state_dict()
    return logs, {name: x.clone() for name, x in model.state_dict().items()}


def ensemble(folder):
    one = dict(
        net=config(folder, False).model.teacher, ckpt=str(folder / 'teacher.pth')
    )
    return dict(
        teacher=[dict(one, name='a'), dict(one, name='b', weight=2.0)],
        teacher_average='logits',
        teacher_ckpt=None,
        teacher_from=None,
    )


def learn(rank, folder):
    found = {}
    for shard in (False, True):
        model = algorithm(config(folder, shard))
        found['bytes', shard] = teacher_shards.bytes_of(model.teacher)
        found['plain', shard] = steps(model, rank)
        if shard:
            found['own'] = {
                name: local_part(x).clone()
                for name, x in model.teacher.named_parameters()
            }
            model.load_state_dict({**found['plain', False][1], **whole(folder)})
            other = whole(folder)
            other['teacher.backbone.conv1.weight'][0] += 1  # of which rank 0 has a part
            other['teacher.backbone.conv1.weight'][-1] += 1
            with pytest.raises(ValueError, match=r'model\.teacher_ckpt'):
                model.load_state_dict({**found['plain', False][1], **other})
        model = algorithm(logit_config(shard, **ensemble(folder)))
        found['several', shard] = steps(model, rank)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(algorithm(config(folder, True)))
    found['converted', True] = steps(revert_sync_batchnorm(converted), rank)
    found['converted', False] = found['plain', False]
    model = algorithm(config(folder, True))
    copied = copy.deepcopy(model)
    assert copied.teacher is model.teacher
    assert copied.student.head.fc.weight is not model.student.head.fc.weight
    data = model.data_preprocessor(batch(rank), True)
    found['copied'] = [list(x(**data, mode='loss').values()) for x in (model, copied)]
    with pytest.raises(ValueError, match='0 and 1 batches.*DefaultSampler'):
        loop = SimpleNamespace(dataloader=[0] * rank)
        StudentTeacherValLoop._require_even(loop)
    cfg = config(folder, True)
    cfg.model.teacher_ckpt = str(folder / ('other.pth' if rank else 'teacher.pth'))
    with pytest.raises(ValueError, match='The ranks have read different teachers'):
        algorithm(cfg)
    return found


def logit_config(shard, **model):
    cfg = digits_config('cakd/demo_digits.py')
    cfg.model.update(teacher_shard=shard, **model)
    return cfg


def whole(folder):
    weights = torch.load(folder / 'teacher.pth', weights_only=False)['state_dict']
    return {f'teacher.{name}': x for name, x in weights.items()}


def test_units_are_blocks_of_all_kinds_of_nets():
    swin = dict(type='SwinTransformer', arch='tiny', img_size=64, window_size=2)
    vit = dict(type='VisionTransformer', arch='deit-tiny', img_size=64)
    for backbone, width, units, most in (
        (dict(type='ResNet', depth=50), 2048, 16, 0.2),
        (vit, 192, 12, 0.1),
        (swin, 768, 12, 0.2),
        (dict(type='ConvNeXt', arch='tiny'), 768, 18, 0.2),
    ):
        head = dict(type='LinearClsHead', num_classes=10, in_channels=width)
        net = build(dict(type='ImageClassifier', backbone=backbone, head=head))
        total, claimed, sizes = set(net.parameters()), set(), []
        for unit in units_of(net):
            own = set(unit.parameters()) - claimed
            claimed |= own
            sizes.append(sum(x.numel() for x in own))
        every = sum(x.numel() for x in total)
        assert len(sizes) >= units
        assert max(*sizes, every - sum(sizes)) < most * every


@can_shard
def test_two_ranks(tmp_path):
    save_teacher(tmp_path / 'teacher.pth')
    save_teacher(tmp_path / 'other.pth', seed=1)
    feature_config(tmp_path)
    ranks = two_ranks(lambda rank: learn(rank, tmp_path), tmp_path)
    for found in ranks:
        for case in ('plain', 'converted', 'several'):
            losses, weights = found[case, False]
            assert found[case, True][0] == losses
            assert found[case, True][1].keys() == weights.keys()
            for name, weight in weights.items():
                assert torch.equal(found[case, True][1][name], weight), name
        assert not any(name.startswith('teacher.') for name in weights)
        assert found['copied'][0] == found['copied'][1]
    assert ranks[0]['plain', True][0] != ranks[1]['plain', True][0]  # other images
    for name, weight in whole(tmp_path).items():
        parts = [found['own'].get(name.removeprefix('teacher.')) for found in ranks]
        if parts[0] is None:  # a buffer
            continue
        if name.startswith('teacher.head'):  # which recorders give to the scorer
            assert all(torch.equal(part, weight) for part in parts)
        else:
            assert torch.equal(torch.cat(parts), weight), name
            assert all(len(part) == len(weight) / 2 for part in parts), name
    sizes = [found['bytes', True] for found in ranks]
    head = 4 * (64 * 10 + 10)
    assert sizes == [(ranks[0]['bytes', False] + head) // 2] * 2


@pytest.mark.parametrize(
    'name, value',
    [
        ('teacher_runtime', {}),
        ('save_teacher', True),
        ('allow_random_teacher', True),
        ('teacher_mode', 'loss'),
    ],
)
def test_what_needs_whole_weights_is_refused(tmp_path, name, value, monkeypatch):
    monkeypatch.setattr(teacher_shards, 'find_fully_shard', lambda: len)
    feature_config(tmp_path)
    with pytest.raises(ValueError, match=rf'`model\.{name}`.*teacher_shard=False'):
        algorithm(config(tmp_path, True, **{name: value}))


def test_older_pytorch_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_shards, 'find_fully_shard', lambda: None)
    feature_config(tmp_path)
    with pytest.raises(RuntimeError, match=r'teacher_shard.*torch>=2\.7'):
        algorithm(config(tmp_path, True))


@can_shard
def test_one_process_keeps_the_teacher_whole(tmp_path):
    feature_config(tmp_path)
    save_teacher(tmp_path / 'teacher.pth')
    model = algorithm(config(tmp_path, True))
    assert not model.teacher_is_shared_out
    assert copy.deepcopy(model).teacher is not model.teacher
