"""Heads whose logits carry a margin, and losses that a sigmoid head cannot learn from.

All is looked at as a user has it: nets built from configs, and one step.
"""

import copy
import logging
import random
import threading
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmpretrain.models import ClsHead, LinearClsHead, MultiLabelLinearClsHead
from mmpretrain.registry import MODELS as NETS
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import nn
from torch.testing import assert_close

from cakd_mm.models.recorders import head_recorder

N, C = 6, 5
FIRST = 'model.distiller.'
HEAD = dict(type='ModuleOutputs', source='head')
SCORES = dict(type='ModuleInputs', source='head.loss_module')


@NETS.register_module()
class CosineMargin(ClsHead):
    """CosFace, as a user may write it: labels in ``forward``, and dropout."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float = 0.0):
        super().__init__()
        self.num_classes = num_classes
        self.norm = nn.BatchNorm1d(in_channels)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_channels, num_classes, bias=False)

    def forward(self, feats, target=None):
        scores = 8 * self.fc(self.dropout(self.norm(feats[-1])))
        if target is not None:
            scores = scores - 3 * nn.functional.one_hot(target, self.num_classes)
        return scores

    def loss(self, feats, data_samples, **kwargs):
        target = torch.cat([x.gt_label for x in data_samples])
        return dict(loss=self.loss_module(self(feats, target=target), target))


@NETS.register_module()
class NeedsLabels(CosineMargin):
    def forward(self, feats, target):
        return super().forward(feats, target)


@NETS.register_module()
class MarginInLoss(LinearClsHead):
    """The margin comes after ``forward``."""

    def loss(self, feats, data_samples, **kwargs):
        target = torch.cat([x.gt_label for x in data_samples])
        scores = self(feats) - 3 * nn.functional.one_hot(target, self.num_classes)
        return dict(loss=self.loss_module(scores, target))


@NETS.register_module()
class MarginInLossModule(LinearClsHead):
    """Logits without margin reach the module of the loss."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.loss_module = nn.MultiMarginLoss()

    def loss(self, feats, data_samples, **kwargs):
        target = torch.cat([x.gt_label for x in data_samples])
        return dict(loss=self.loss_module(self(feats), target))


@NETS.register_module()
class HiddenMargin(LinearClsHead):
    """The labels reach ``forward`` by another way than its arguments."""

    target = None

    def forward(self, feats):
        scores = super().forward(feats)
        if self.training and self.target is not None:
            scores = scores - nn.functional.one_hot(self.target, self.num_classes)
        self.last = scores  # a tensor with a graph, which cannot be copied
        return scores

    def loss(self, feats, data_samples, **kwargs):
        self.target = torch.cat([x.gt_label for x in data_samples])
        return super().loss(feats, data_samples, **kwargs)


@NETS.register_module()
class Keeps(LinearClsHead):
    """Works in place on its features, draws from every generator, and keeps much."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mean = torch.zeros(())  # no buffer
        self.kept: dict[str, list] = dict(scores=[])

    def forward(self, feats):
        feats[-1].mul_(1 + 0.1 * random.random() + 0.1 * np.random.rand())
        scores = super().forward(feats)
        self.mean.add_(scores.detach().mean())
        self.fc.bias.data.add_(0.5)
        self.kept['scores'].append(scores)
        return scores


@NETS.register_module()
class Locks(LinearClsHead):
    """Cannot be copied."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.lock = threading.Lock()


@NETS.register_module()
class NeverTheSame(LinearClsHead):
    """Its numbers come from elsewhere than the generators of the run."""

    draws = count()

    def forward(self, feats):
        return super().forward(feats) * (1 + next(self.draws))


@NETS.register_module()
class Scales(LinearClsHead):
    """An argument that is no label stands before them."""

    mixed = False

    def forward(self, feats, scale=None, target=None):
        scores = super().forward(feats)
        if target is not None:
            scores = scores - (target if self.mixed else self.one_hot(target))
        return scores if scale is None else scores * scale

    def one_hot(self, target):
        return nn.functional.one_hot(target, self.num_classes).float()

    def loss(self, feats, data_samples, **kwargs):
        target = torch.cat([x.gt_label for x in data_samples])
        if self.mixed:
            target = 0.5 * self.one_hot(target)
        scores = self(feats, torch.tensor(2.0), target=target)
        return dict(loss=self.loss_module(scores, target))


@NETS.register_module()
class Overwrites(LinearClsHead):
    """Its margin is made of features that are gone after the step."""

    def loss(self, feats, data_samples, **kwargs):
        target = torch.cat([x.gt_label for x in data_samples])
        margin = nn.functional.one_hot(target, self.num_classes) * feats[-1].mean()
        scores = self(feats) - margin
        feats[-1].detach().zero_()
        return dict(loss=self.loss_module(scores, target))


@NETS.register_module()
class MarginOfScores(MultiLabelLinearClsHead):
    """The margin comes by the scores of the labels."""

    def loss(self, feats, data_samples, **kwargs):
        target = torch.stack([x.gt_score for x in data_samples])
        return dict(loss=self.loss_module(self(feats) - 3 * target, target))


@NETS.register_module()
class Parabola(LinearClsHead):
    def loss(self, feats, data_samples, **kwargs):
        scores = self(feats).mean()
        # Symmetric about 1.5 more than what the mean is in the first step.
        if not hasattr(self, 'start'):
            self.start = float(scores)
        return dict(loss=(scores - self.start - 1.5) ** 2)


@MODELS.register_module()
class SameScores(nn.Identity):
    pass


def net(head: str, **settings) -> dict:
    return dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        backbone=dict(type='CIFARResNet', depth=8),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type=head, num_classes=C, in_channels=64, **settings),
    )


def algorithm(head: dict, teacher: dict | None = None, **options) -> nn.Module:
    """Build a distillation by a KL between logits; ``options`` change it."""
    student = options.pop('student', HEAD)
    data_idx = 0 if student['type'] == 'ModuleInputs' else None
    loss = options.pop('loss', dict(type='KLDivergence', tau=4.0))
    ours, theirs = options.pop('names', ('preds_S', 'preds_T'))
    mapping = {
        ours: dict(recorder='logits', from_student=True, data_idx=data_idx),
        theirs: dict(recorder='logits', from_student=False),
        **options.pop('mapping', {}),
    }
    cfg = dict(
        _scope_='mmrazor',
        type='FrozenTeacherDistill',
        architecture=head,
        teacher=copy.deepcopy(teacher or head),
        allow_random_teacher=True,
        distiller=dict(
            type='StrictDistiller',
            student_recorders=dict(
                logits=student,
                gt_labels=dict(type='ModuleInputs', source='head.loss_module'),
            ),
            teacher_recorders=dict(logits=options.pop('teacher_taps', HEAD)),
            connectors=options.pop('connectors', None),
            distill_losses=dict(loss_kd=loss),
            loss_forward_mappings=dict(loss_kd=mapping),
        ),
        data_preprocessor=dict(_scope_='mmpretrain', num_classes=C),
        **options,
    )
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built = MODELS.build(cfg)
    built.init_weights()
    for parameter in built.teacher.head.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return built.train()


def batch(rows: list | None = None) -> tuple:
    """Return images and samples of one label each, or of several in ``rows``."""
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(N, 3, 32, 32, generator=draw)
    if rows is None:
        return images, [DataSample().set_gt_label(i % C) for i in range(N)]
    samples = []
    for row in rows:
        scores = torch.tensor([float(i in row) for i in range(C)])
        label = torch.tensor(row, dtype=torch.int64)
        samples.append(DataSample().set_gt_label(label).set_gt_score(scores))
    return images, samples


def step(model: nn.Module, rows: list | None = None) -> dict:
    return model(*batch(rows), mode='loss')


@pytest.fixture
def warnings(monkeypatch):
    texts: list[str] = []

    def keep(self, record):
        text = record.getMessage()
        if record.levelno >= logging.WARNING and 'random weights' not in text:
            texts.append(text)

    monkeypatch.setattr(MMLogger, 'callHandlers', keep)
    return texts


# Margins


@pytest.mark.parametrize('mode', ['tensor', 'loss'])
@pytest.mark.parametrize('head', ['ArcFaceClsHead', 'CosineMargin'])
def test_equal_nets_with_margin_heads_are_equal(head, mode):
    model = algorithm(net(head), teacher_mode=mode)
    model.student.load_state_dict(model.teacher.state_dict())
    model.student.eval()  # normalisation as in the teacher
    plain = model.teacher(batch()[0], mode='tensor')
    for _ in range(2):  # the first step tries the heads out
        losses = step(model)
        assert_close(model.distiller.get_record('logits', True), plain)
        assert_close(model.distiller.get_record('logits', False), plain)
        assert losses['distill.loss_kd'].abs() < 1e-5
    # The labels' own loss has the margin.
    without = nn.functional.cross_entropy(plain, torch.arange(N) % C)
    assert losses['student.loss'] > without + 0.1


def test_the_gradient_is_that_of_logits_without_margin():
    model = algorithm(net('CosineMargin'))
    twin = copy.deepcopy(model.student)  # its hooks record elsewhere
    step(model)['distill.loss_kd'].backward()
    feats = twin.extract_feat(batch()[0])
    logits = twin.head.forward(feats)
    teacher = model.distiller.get_record('logits', False)
    kl = nn.KLDivLoss(reduction='batchmean')
    (16 * kl((logits / 4).log_softmax(1), (teacher / 4).softmax(1))).backward()
    for own, other in zip(model.student.parameters(), twin.parameters(), strict=True):
        assert_close(own.grad, other.grad)
    # The second run of the head is none for its statistics.
    for own, other in zip(model.student.buffers(), twin.buffers(), strict=True):
        assert_close(own, other)


@pytest.mark.parametrize(
    ('head', 'student', 'training'),
    [
        ('ArcFaceClsHead', SCORES, True),
        ('CosineMargin', SCORES, True),
        ('CosineMargin', SCORES, False),
        ('MarginInLoss', SCORES, True),
        ('HiddenMargin', HEAD, True),
        ('Overwrites', SCORES, True),
    ],
)
def test_a_margin_that_would_be_taught_is_refused(head, student, training):
    model = algorithm(net(head), student=student)
    model.student.head.train(training)
    match = rf'{FIRST}student_recorders\.logits\.source` = .{student["source"]}'
    for _ in range(2):  # whoever goes on is told again
        with pytest.raises(ValueError, match=rf'{match}.*labels: {head} adds'):
            step(model)


def test_the_method_of_a_head_carries_it_too():
    source = 'mmpretrain.models.heads.margin_head.ArcFaceClsHead._get_logit_with_margin'
    model = algorithm(
        net('ArcFaceClsHead'), student=dict(type='MethodOutputs', source=source)
    )
    with pytest.raises(ValueError, match='ArcFaceClsHead adds a margin'):
        step(model)


def test_arguments_by_other_names_are_looked_at():
    names = dict(loss=dict(type='L2Loss'), names=('s_feature', 't_feature'))
    with pytest.raises(ValueError, match='MarginInLoss adds a margin'):
        step(algorithm(net('MarginInLoss'), student=SCORES, **names))


def test_a_teacher_with_a_margin_is_refused():
    model = algorithm(
        net('LinearClsHead'),
        net('MarginInLoss'),
        teacher_mode='loss',
        teacher_taps=SCORES,
        mapping=dict(
            preds_T=dict(recorder='logits', from_student=False, data_idx=0),
        ),
    )
    with pytest.raises(ValueError, match=r'teacher_recorders\.logits.*MarginInLoss'):
        step(model)


def test_a_head_that_does_not_run_without_labels_is_refused():
    match = rf'{FIRST}student_recorders\.logits\.source.*NeedsLabels\.forward.*default'
    with pytest.raises(ValueError, match=match):
        algorithm(net('NeedsLabels'), net('LinearClsHead'))


@pytest.mark.parametrize(
    ('head', 'student'),
    [
        (net('LinearClsHead'), SCORES),
        (net('LinearClsHead', cal_acc=True), HEAD),
        (net('MarginInLoss'), HEAD),
        (net('MarginInLossModule'), SCORES),
        (net('CosineMargin', dropout=0.5), HEAD),
        (net('StackedLinearClsHead', mid_channels=[8], dropout_rate=0.5), SCORES),
        (net('ArcFaceClsHead'), dict(type='ModuleOutputs', source='head.norm_product')),
    ],
)
def test_what_has_no_margin_trains_on(head, student, warnings):
    model = algorithm(head, student=student, teacher_taps=HEAD)
    for _ in range(2):
        assert step(model)['distill.loss_kd'] > 0
    assert warnings == []


def test_the_trial_leaves_nothing_behind():
    """Numbers drawn, statistics, weights and losses are as without it."""
    head = net('StackedLinearClsHead', mid_channels=[8], dropout_rate=0.5)
    head['head']['norm_cfg'] = dict(type='BN1d')
    models = [algorithm(head) for _ in range(2)]
    models[1].head_trial._untried.clear()  # which tries nothing
    for model in models:  # as somebody may who watches it
        recorder = model.distiller.student_recorders.get_recorder('logits')
        recorder.reset_data_buffer = recorder.reset_data_buffer
    results = []
    for model in models:
        torch.manual_seed(2)
        losses = step(model)
        sum(losses.values()).backward()
        grads = [p.grad for p in model.student.parameters()]
        state = list(model.state_dict().values())
        kept = model.distiller.student_recorders.get_recorder('logits').data_buffer
        results.append([*kept, *losses.values(), *grads, *state, torch.rand(3)])
        assert 'loss' not in vars(model.student.head)
    assert_close(*results, rtol=0, atol=0)


def test_whatever_a_head_keeps_and_draws_is_as_without_the_trial(warnings):
    models = [algorithm(net('Keeps')) for _ in range(2)]
    models[1].head_trial._untried.clear()
    results = []
    for model in models:
        random.seed(3)
        np.random.seed(3)
        for _ in range(2):
            losses = step(model)
            sum(losses.values()).backward()
        head = model.student.head
        assert len(head.kept['scores']) == 2
        grads = [p.grad for p in model.student.parameters()]
        drawn = torch.tensor([random.random(), np.random.rand()])
        state = [head.mean, *model.state_dict().values()]
        results.append([*losses.values(), *grads, *state, drawn])
    assert_close(*results, rtol=0, atol=0)
    assert warnings == []


@pytest.mark.parametrize(
    ('head', 'reason'),
    [('Locks', "cannot pickle '_thread.lock'"), ('NeverTheSame', 'other numbers each')],
)
def test_a_head_that_cannot_be_tried_is_named_and_trains(head, reason, warnings):
    model = algorithm(net(head))
    for _ in range(2):
        assert step(model)['distill.loss_kd'] > 0
    [text] = warnings
    assert text.startswith(f'{head} was not tried out, because ') and reason in text


def test_a_loss_of_the_head_that_was_replaced_is_kept(warnings):
    model = algorithm(net('LinearClsHead'))
    head = model.student.head
    head.loss = own = partial(LinearClsHead.loss, head)
    step(model)
    assert head.loss is own
    assert ['LinearClsHead.loss was replaced' in text for text in warnings] == [True]


def test_the_trial_waits_for_labels():
    model = algorithm(net('HiddenMargin'), calculate_student_loss=False)
    images, samples = batch()
    model(images, [DataSample() for _ in samples], mode='loss')
    with pytest.raises(ValueError, match='HiddenMargin adds a margin'):
        step(model)


def test_a_student_that_is_compiled_is_compiled_once(warnings):
    model = algorithm(net('LinearClsHead'))
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model.student.compile(backend=backend)
    for _ in range(2):
        step(model)
    assert len(graphs) == 1
    assert ['it is compiled' in text for text in warnings] == [True]


def test_a_forward_that_is_compiled_does_not_try_heads(warnings):
    model = algorithm(net('LinearClsHead'))
    wrapper = OptimWrapper(torch.optim.SGD(model.student.parameters(), 0.1))
    torch._dynamo.reset()
    model.forward = torch.compile(model.forward, backend='eager')
    images, samples = batch()
    for _ in range(2):
        model.train_step(dict(inputs=images, data_samples=samples), wrapper)
    assert ['it is compiled' in text for text in warnings] == [True]
    assert 'Call' not in repr(torch._dynamo.utils.counters['graph_break'])


@pytest.mark.parametrize('mixed', [False, True])
def test_a_head_keeps_its_other_arguments_without_labels(mixed, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(head_recorder, 'print_log', lambda text, _: said.append(text))
    model = algorithm(net('Scales'))
    model.student.head.mixed = mixed
    twin = copy.deepcopy(model.student)
    for _ in range(2):
        step(model)
    plain = twin.head.forward(twin.extract_feat(batch()[0]))
    assert_close(model.distiller.get_record('logits', True), 2 * plain)
    assert [text.partition(':')[0] for text in said] == [
        'Scales is recorded without target'
    ]


# Sigmoids

ROWS: list = [[0, 3], [], [2], [0, 1, 2, 3, 4], [1, 4], [3]]
BCE = dict(type='CrossEntropyLoss', use_sigmoid=True)
SIGMOID = [
    net('MultiLabelLinearClsHead'),
    net('MultiLabelLinearClsHead', loss=dict(type='AsymmetricLoss')),
    net('MultiLabelLinearClsHead', loss=dict(type='FocalLoss')),
    net('LinearClsHead', loss=BCE),
]
MULTI_LABEL = dict(
    loss=dict(type='CAKDLogitLoss', multi_label=True),
    mapping=dict(gt_labels=dict(recorder='gt_labels', from_student=True, data_idx=1)),
)
DIST = dict(loss=dict(type='DISTLoss'), names=('logits_S', 'logits_T'))
L2 = dict(loss=dict(type='L2Loss'), names=('s_feature', 't_feature'))


@pytest.mark.parametrize('head', SIGMOID)
@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('KLDivergence', {}),
        ('DISTLoss', DIST),
        ('CTKDLoss', dict(loss=dict(type='CTKDLoss'))),
        ('CMKDLoss', dict(loss=dict(type='CMKDLoss'))),
        ('CAKDLogitLoss', MULTI_LABEL),
    ],
)
def test_a_softmax_on_a_sigmoid_head_is_warned_of(head, name, options, warnings):
    model = algorithm(head, **copy.deepcopy(options))
    if name == 'CTKDLoss':
        model.distiller.distill_losses.loss_kd.set_epoch(0)
    for _ in range(2):
        step(model, ROWS)
    [text] = warnings
    kind = head['head']['type']
    assert text.startswith(f"`{FIRST}distill_losses.loss_kd.type` = '{name}': ")
    assert f'own loss of {kind} does' in text and "type='SigmoidKDLoss'" in text


@pytest.mark.parametrize('head', SIGMOID)
@pytest.mark.parametrize('options', [dict(loss=dict(type='SigmoidKDLoss')), L2])
def test_a_loss_that_sees_a_shift_is_not_warned_of(head, options, warnings):
    model = algorithm(head, **copy.deepcopy(options))
    assert step(model, ROWS)['distill.loss_kd'] > 0
    assert warnings == []


@pytest.mark.parametrize('loss', ['CrossEntropyLoss', 'LabelSmoothLoss', 'SeesawLoss'])
def test_a_softmax_on_a_softmax_head_is_not_warned_of(loss, warnings):
    settings = dict(LabelSmoothLoss=dict(label_smooth_val=0.1))
    settings |= dict(SeesawLoss=dict(num_classes=C))
    head = net('LinearClsHead', loss=dict(type=loss, **settings.get(loss, {})))
    model = algorithm(head)
    # Scores of some 300, which half precision rounds to 2.
    model.student.head.fc.weight.data *= 200
    model.student.head.fc.bias.data += 300
    with torch.autocast('cpu', torch.bfloat16):
        step(model)
    assert warnings == []


def test_behind_a_connector_nothing_is_said_of_a_softmax(warnings):
    cfg = dict(recorder='logits', from_student=True, connector='same')
    model = algorithm(
        SIGMOID[0],
        mapping=dict(preds_S=cfg),
        connectors=dict(same=dict(type='SameScores')),
    )
    step(model, ROWS)
    assert warnings == []


def test_a_head_of_several_labels_may_carry_a_margin_too():
    model = algorithm(net('MarginOfScores'), student=SCORES)
    with pytest.raises(ValueError, match='MarginOfScores adds a margin'):
        step(model, [[i % C] for i in range(N)])


def test_one_shift_may_change_nothing_by_chance(warnings):
    """The loss of a head is the same at 0 and where all scores are 3 higher."""
    model = algorithm(net('Parabola'))
    step(model)
    assert len(warnings) == 1
