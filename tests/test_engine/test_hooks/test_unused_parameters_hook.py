"""Two ranks train on where parameters get no gradient, as torch does if it is told."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import HOOKS
from mmpretrain.structures import DataSample
from mmrazor.engine import StopDistillHook
from ranks import two_ranks
from tiny import algorithm, digits_config, save_teacher
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from cakd_mm.engine.hooks import unused_parameters_hook

FEATURE = 'cakd/ablations/digits/digits_logit-single_network.py'
HEAD = ['architecture.head.fc.weight', 'architecture.head.fc.bias']
FIRST = 'architecture.backbone.conv1.weight'


def config(folder, **options):
    return digits_config(
        FEATURE, model__teacher_ckpt=str(folder / 'teacher.pth'), **options
    )


def alone(cfg):
    """Let the feature loss alone teach the student."""
    cfg.model.calculate_student_loss = False
    for part in ('distill_losses', 'loss_forward_mappings'):
        cfg.model.distiller[part].pop('loss_cakd')
    cfg.model.distiller.pop('balancer', None)


def stop(model, step):
    model.distillation_stopped = step >= 2


def stop_within_an_epoch(model, step):
    model.distillation_stopped = step >= 3


def freeze(model, step):
    model.student.backbone.conv1.requires_grad_(step >= 2)


def thaw_within_an_epoch(model, step):
    model.student.backbone.conv1.requires_grad_(step >= 1)


def freeze_later(model, step):
    model.student.backbone.conv1.requires_grad_(step < 2)


def change_nothing(model, step):
    pass


def checkpointed(model, step):
    """Let the student's stem show none of its layers, as with_cp does."""
    stem = model.student.backbone.conv1
    if step == 0:
        run = stem.forward
        stem.forward = lambda x: checkpoint(run, x.requires_grad_(), use_reentrant=True)


def checkpointed_and_stopped(model, step):
    checkpointed(model, step)
    stop(model, step)


# The config, what happens before a step, whether a hook announces the stop, and how
# many steps are accumulated.
CASES = dict(
    nothing=(None, change_nothing, False, 1),
    announced=(None, stop, True, 1),
    accumulated=(None, stop, True, 3),
    unannounced=(None, stop_within_an_epoch, False, 1),
    alone=(alone, change_nothing, False, 1),
    frozen=(None, freeze, False, 1),
    saved=(alone, change_nothing, False, 2),
    thawed=(None, thaw_within_an_epoch, False, 1),
    pending=(None, freeze_later, False, 3),
    checkpointed=(None, checkpointed, False, 1),
    refused=(None, checkpointed_and_stopped, False, 1),
)


def models(folder):
    """Return the model of each change of the config."""
    made = {}
    for change in (None, alone):
        cfg = config(folder)
        if change:
            change(cfg)
        made[change] = algorithm(cfg)
    return made


def steps(begun, hook, rank, case, told):
    """Train four steps; return the weights, the log, and what torch is told."""
    change, before_step, announced, counts = CASES[case]
    model = copy.deepcopy(begun[change])
    before_step(model, 0)
    wrapper = MMDistributedDataParallel(
        model, find_unused_parameters=told, broadcast_buffers=False
    )
    texts, flags = [], []
    runner = SimpleNamespace(
        model=wrapper,
        hooks=[StopDistillHook(1 if announced else 2)],
        max_epochs=2,
        logger=SimpleNamespace(info=texts.append),
    )
    hook = HOOKS.build(hook)
    hook.before_run(runner)
    hook.before_train(runner)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    try:
        for step in range(4):
            before_step(model, step)
            if step in (0, 2):
                hook.before_train_epoch(runner)
            if case == 'saved' and step == 3 and not told:  # between two parts
                hook.after_checkpoint(runner)
                flags.append(wrapper.find_unused_parameters)
            hook.before_train_iter(runner, step)
            is_due = (step + 1) % counts == 0 or step == 3
            wrapper.require_backward_grad_sync = is_due
            draw = torch.Generator().manual_seed(2 * step + rank)
            images = torch.randint(0, 256, (4, 3, 16, 16), generator=draw)
            data = dict(
                inputs=images.to(torch.uint8),
                data_samples=[DataSample().set_gt_label(i) for i in range(4)],
            )
            losses = wrapper(**model.data_preprocessor(data, True), mode='loss')
            sum(v for k, v in losses.items() if 'loss' in k).backward()
            flags.append(wrapper.find_unused_parameters)
            if is_due:
                optimizer.step()
                optimizer.zero_grad()
    except ValueError as error:
        return str(error)
    return dict(model.named_parameters()), texts, flags


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    save_teacher(folder / 'teacher.pth')

    def work(rank):
        logging.disable()
        begun, hook = models(folder), config(folder).default_hooks.unused
        found = {
            (case, told): steps(begun, hook, rank, case, told)
            for case in CASES
            for told in ((False, True) if case in TOLD else (False,))
        }
        found['first'] = dict(begun[alone].named_parameters())
        return found

    return two_ranks(work, folder)


TOLD = [case for case in CASES if case not in ('checkpointed', 'refused')]


@pytest.mark.parametrize('case', TOLD)
def test_weights_are_those_of_a_wrapper_that_was_told(ranks, case):
    (weights, *_), (others, *_) = (found[case, False] for found in ranks)
    expected = ranks[0][case, True][0]
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ('case', 'expected'),
    [
        ('nothing', [False] * 4),
        ('announced', [True] * 4),
        ('accumulated', [True] * 4),
        ('unannounced', [False] * 3 + [True]),
        ('alone', [True] * 4),
        ('frozen', [False] * 4),
        ('saved', [True] * 3 + [False, True]),
        ('thawed', [False] * 4),
        ('pending', [False] * 4),
        ('checkpointed', [False] * 4),
    ],
)
def test_it_looks_for_unused_parameters_from_where_some_are(ranks, case, expected):
    for found in ranks:
        assert found[case, False][2] == expected


def test_the_log_names_them(ranks):
    found = {case: ranks[1][case, False][1] for case in TOLD}
    assert found['nothing'] == []
    assert found['saved'] == found['alone']
    [text] = found['alone']
    assert text == (
        'Ranks exchange the gradients of 37 parameters from here on, with '
        'find_unused_parameters=True, because 2 get none (no loss uses them): '
        f'{", ".join(HEAD)}.'
    )
    [text] = found['announced']
    assert 'because 8 get none (distillation stops): distiller.' in text
    assert text.endswith('.classifier.weight and 3 more.')
    for case, count in (('frozen', 37), ('thawed', 37), ('pending', 36)):
        [text] = found[case]
        assert text.endswith(f'the gradients of {count} parameters from here on.')


def test_what_gets_no_gradient_stays_as_it_is(ranks):
    first, (weights, *_) = ranks[0]['first'], ranks[0]['alone', False]
    assert all(torch.equal(weights[name], first[name]) for name in HEAD)
    assert not torch.equal(weights[FIRST], first[FIRST])


def test_layers_that_hide_their_parameters_are_named(ranks):
    for found in ranks:
        assert found['refused', False].startswith('`find_unused_parameters` = False: ')
        assert 'with_cp=False' in found['refused', False]


def test_a_wrapper_that_cannot_be_told_is_refused(monkeypatch):
    """The training step is what mmengine replaces by a compiled one."""
    monkeypatch.setattr(unused_parameters_hook, 'get_world_size', lambda: 2)

    def outcome(static, told, compiled, stop_epoch=1, thaws=False, epoch=0):
        wrapper = object.__new__(DistributedDataParallel)
        nn.Module.__init__(wrapper)
        wrapper.module = nn.ModuleDict(
            dict(distiller=nn.Linear(1, 1), head=nn.Linear(1, 1).requires_grad_(False))
        )
        wrapper.reducer, wrapper.parameters_to_ignore = None, set()
        wrapper.static_graph, wrapper.find_unused_parameters = static, told
        runner = SimpleNamespace(
            model=wrapper,
            hooks=[StopDistillHook(stop_epoch)],
            epoch=epoch,
            max_epochs=2,
            cfg=dict(compile=True),
        )
        hook = unused_parameters_hook.UnusedParametersHook()
        hook.before_run(runner)
        if compiled:
            wrapper.train_step = wrapper.forward
        try:
            hook.before_train(runner)
            wrapper.module['head'].requires_grad_(thaws)
            hook.before_train_iter(runner, 0)
        except ValueError as error:
            return str(error)
        return ''

    stops = 'mmrazor.StopDistillHook stops at epoch 1'
    waits = f'`find_unused_parameters` = False: {stops}'
    static = '`model_wrapper_cfg.static_graph` = True: '
    assert outcome(True, True, False).startswith(static + stops)
    assert outcome(False, False, True).startswith(waits)
    assert outcome(True, False, False, stop_epoch=2) == ''
    assert outcome(True, False, False, epoch=1) == ''
    assert outcome(False, True, True) == ''
    found = outcome(True, False, False, stop_epoch=2, thaws=True)
    assert found.startswith(f'{static}A hook lets head.bias be trained only now')
    found = outcome(False, True, True, thaws=True)
    assert found.startswith('`compile` = True: A hook lets head.bias')
