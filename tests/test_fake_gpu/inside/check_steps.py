"""A training step of each method base on a GPU: the host's values, without a wait."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
import torch
from fake_gpu import DEVICE, NAME, Gpu, fake_gpu
from loss_cases import CASES, SCORERS
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, set_random_seed
from mmpretrain.registry import MODELS as mmpretrain
from mmrazor.registry import MODELS
from tiny import CONFIGS, algorithm
from torch import Tensor
from torch.testing import assert_close

from cakd_mm.datasets.label_batch import sample_indices
from cakd_mm.engine.loops.resident import resident_loader
from cakd_mm.models.losses.base import losses_of
from cakd_mm.own_images.methods import classifier_methods

# Loader and precision. The first is also looked at in its second step.
KINDS = ('ordinary float32', 'resident float32', 'resident autocast')
LEAF = """
_base_ = [
    '{configs}/_base_/tasks/r20_r8_digits.py',
    '{configs}/_base_/methods/{method}.py',
]
model = dict(
    distiller=_base_.distiller,
    teacher_ckpt=None,
    allow_random_teacher=True,
    **{more},
)
"""
TOKENS = dict(  # a student with a token for the teacher
    _delete_=True,
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(
        type='DistilledVisionTransformer',
        arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16),
        img_size=16,
        patch_size=8,
    ),
    head=dict(type='DeiTClsHead', num_classes=10, in_channels=16),
)
NARROW = dict(  # with the four stages of nets for ImageNet
    _delete_=True,
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, stem_channels=4, base_channels=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=32),
)
# A teacher of the usual depth would launch three times as much of the same.
SHALLOW = dict(backbone=dict(depth=8))
NECK = dict(type='NORMNeck', in_channels=64, teacher_channels=64, segments=2)
MORE = dict(
    deit=dict(architecture=TOKENS),
    norm=dict(architecture=dict(neck=NECK)),
    **dict.fromkeys(
        ('ofd_in1k', 'reviewkd_in1k', 'wkd_in1k', 'wkd_feature_in1k'),
        dict(architecture=NARROW, teacher=NARROW),
    ),
)
EVERY = pytest.mark.parametrize('method', classifier_methods())
# Nets of other pairs, which check_nets.py has, and nets of other projects.
NETS = {
    'CIFARShuffleNetV1',
    'CIFARShuffleNetV2',
    'CIFARWideResNet',
    'MobileNetV1',
    'HuggingFaceBackbone',
    'HuggingFaceConfigClassifier',
    'TorchvisionClassifier',
}
# check_operations.py has these.
CONNECTORS = {
    'MapToTokensConnector',
    'TokensConnector',
    'TokensToMapConnector',
    'TokensToVectorConnector',
}
STEPS = 2  # of the first kind, whose first one may be looked at more closely


def config_of(method: str) -> Config:
    """Return a small config of a method base with its usual nets, on Digits."""
    more = dict(teacher=SHALLOW) | MORE.get(method, {})
    names = dict(configs=CONFIGS, method=method, more=more)
    with TemporaryDirectory() as folder:
        file = Path(folder, 'leaf.py')
        file.write_text(LEAF.format(**names))
        cfg = Config.fromfile(file)
    loader = cfg.train_dataloader
    loader.update(batch_size=8, num_workers=0, persistent_workers=False)
    loader.dataset.indices = 8 * STEPS
    return cfg


class Ran(NamedTuple):
    """What became of a method.

    Attributes:
        values: What was logged and trained, on the host.
        waits: Those of the last step, by its kind.
        parts: The classes that it has.
    """

    values: dict[str, Tensor]
    waits: dict[str, list[str]]
    parts: set[type]


def run(method: str, device: str, gpu: Gpu) -> Ran:
    """Train a step or two of each kind; those in half precision on the GPU alone."""
    cfg = config_of(method)
    model = algorithm(cfg).to(device)
    # With a higher rate the random nets would blow up, and rounding errors with them.
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9))
    ordinary = cfg.train_dataloader
    loaders = dict(ordinary=ordinary, resident=resident_loader(ordinary, model))
    for loss in losses_of(model):
        if loss.needs_epoch:
            loss.set_epoch(3)
        if loss.needs_dataset:
            loss.set_dataset(torch.arange(8 * STEPS) % 10, 0, 8)
    values, waits = {}, {}
    for kind in KINDS:
        name, precision = kind.split()
        is_half = precision == 'autocast'
        if is_half and device == 'cpu':  # The host rounds elsewhere.
            continue
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            loader = Runner.build_dataloader(loaders[name], seed=0)
        set_random_seed(0)  # of the crops
        batches = iter(loader)
        for step in range(1 if waits else STEPS):
            with gpu.listening() as ledger:
                batch = next(batches)
                for loss in losses_of(model):
                    if loss.needs_dataset:  # as SampleIndexHook does
                        indices = sample_indices(batch['data_samples'])
                        loss.indices = torch.from_numpy(indices)
                with torch.autocast(NAME, torch.bfloat16, enabled=is_half):
                    logs = model.train_step(batch, wrapper)
                model.distiller.terms()
            if is_half:
                continue
            named = {f'{kind} {step} {name}': x for name, x in logs.items()}
            if not values:  # Later, rounding has let activations begin or end.
                named |= model.state_dict()
            values |= {name: x.detach().clone().cpu() for name, x in named.items()}
        waits[kind] = ledger.waits
    return Ran(values, waits, {type(module) for module in model.modules()})


@cache
def on_the_gpu(method: str) -> Ran:
    with fake_gpu() as gpu:
        return run(method, DEVICE, gpu)


@EVERY
def test_a_step_gives_what_the_host_gives(method):
    wanted = run(method, 'cpu', Gpu())
    assert_close(on_the_gpu(method).values, wanted.values, rtol=1e-4, atol=1e-5)


@EVERY
@pytest.mark.parametrize('kind', KINDS)
def test_a_step_never_waits(method, kind):
    waits = on_the_gpu(method).waits[kind]
    assert waits == []


def test_every_part_was_there():
    """But for the losses and scorers that check_losses.py has."""
    losses = [case.values[0]() for case in CASES + SCORERS]
    apart = {type(module) for loss in losses for module in loss.modules()}
    ran = set.union(
        apart, *(on_the_gpu(method).parts for method in classifier_methods())
    )
    registered = {*MODELS.module_dict.values(), *mmpretrain.module_dict.values()}
    ours = {x for x in registered if x.__module__.startswith('cakd_mm.models')}
    assert {x.__name__ for x in ours.difference(ran)} <= NETS | CONNECTORS
