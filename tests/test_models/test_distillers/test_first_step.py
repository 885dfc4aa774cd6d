"""The first step refuses a loss that teaches the student nothing, and says why."""

import copy

import pytest
import torch
from mmpretrain.structures import DataSample
from mmrazor.models.task_modules import MethodOutputsDelivery
from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder
from mmrazor.registry import MODELS, TASK_UTILS
from tiny import distillation
from torch import nn
from torch.utils.checkpoint import checkpoint

from cakd_mm.models.distillers import first_step
from cakd_mm.models.distillers.first_step import reached
from cakd_mm.models.recorders import TapRecorder

KEY = r'model\.distiller\.loss_forward_mappings\.loss_f\.preds_S` = '
INNER = 'backbone.layer1.0.conv2'  # within a block, which with_cp checkpoints


@MODELS.register_module(force=True)
class DetachingConnector(nn.Module):
    """Its weights have a gradient, so that the loss has one too."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.conv(x.detach())


@MODELS.register_module(force=True)
class LossOfOthers(nn.Module):
    """A trained factor, and arguments of which it may detach some."""

    def __init__(self, detach=(), empty=False, trained=True):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()), requires_grad=trained)
        self.detach, self.empty = detach, empty

    def forward(self, preds_S, preds_T, more_S=None):
        if self.empty:
            return torch.zeros(())
        if 'preds_S' in self.detach:
            preds_S = preds_S.detach()
        if more_S is not None:
            more_S = more_S.detach() if 'more_S' in self.detach else more_S
            preds_S = preds_S * more_S.mean()
        return (self.factor * preds_S - preds_T).square().mean()


def net(**backbone):
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='ResNet',
            depth=18,
            stem_channels=8,
            base_channels=8,
            out_indices=(3,),
            **backbone,
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
        _scope_='mmpretrain',
    )


def distiller(source=INNER, kind='ModuleOutputs', loss=None, connector=None, **sides):
    recorders = dict(f=dict(type=kind, source=source))
    student = dict(recorder='f', from_student=True, **sides)
    teacher = dict(recorder='f', from_student=False, **sides)
    built = {}
    if connector:
        built = dict(connectors=dict(c=connector))
        student['connector'] = 'c'
    return dict(
        type='StrictDistiller',
        student_recorders=recorders,
        teacher_recorders=recorders,
        distill_losses=dict(loss_f=loss or dict(type='LossOfOthers')),
        loss_forward_mappings=dict(loss_f=dict(preds_S=student, preds_T=teacher)),
        **built,
    )


def build(distiller, student=None, **options):
    return distillation(distiller, student or net(), net(), **options)


def step(model):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    samples = [DataSample().set_gt_label(i) for i in range(4)]
    return model(images, samples, mode='loss')


def gradients(model):
    sum(value for name, value in step(model).items() if 'loss' in name).backward()
    return {name: p.grad for name, p in model.student.named_parameters()}


def hook_first(module, change):
    """Let a module give something else, before its recorder sees it."""
    handle = module.register_forward_hook(lambda module, inputs, output: change(output))
    module._forward_hooks.move_to_end(handle.id, last=False)


@pytest.fixture
def told(monkeypatch):
    """Collect the warnings."""
    found = []
    monkeypatch.setattr(first_step, 'print_log', lambda text, *_: found.append(text))
    return found


def test_a_tap_within_a_checkpointed_block():
    model = build(distiller(), net(with_cp=True))
    with pytest.raises(ValueError, match=KEY + f"'f': '{INNER}' .*off.*with_cp=False"):
        step(model)


def test_a_tap_around_checkpointed_blocks_teaches_as_without(told):
    found, expected = (
        gradients(build(distiller('backbone.layer1'), net(with_cp=with_cp)))
        for with_cp in (True, False)
    )
    assert not told
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_a_tap_within_a_checkpoint_that_keeps_gradients_teaches_as_without(told):
    expected = gradients(build(distiller()))
    model = build(distiller())
    for stage in (model.student.backbone.layer1, model.student.backbone.layer2):
        for block in stage:
            plain = block.forward
            block.forward = lambda x, f=plain: checkpoint(f, x, use_reentrant=False)
    found = gradients(model)
    assert not told
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize('change', [torch.detach, lambda x: x.data])
def test_a_net_that_detaches(change):
    model = build(distiller('backbone.layer1'))
    hook_first(model.student.backbone.layer1, change)
    with pytest.raises(ValueError, match=KEY + "'f': 'backbone.layer1' .*in the net"):
        step(model)


@pytest.mark.parametrize(
    ('source', 'kind', 'is_frozen'),
    [
        ('backbone.layer1', 'ModuleOutputs', True),
        ('backbone.layer2', 'ModuleInputs', True),
        ('stage1', 'Tap', True),
        ('backbone.layer2', 'ModuleOutputs', False),
    ],
)
def test_frozen_layers_alone_before_a_tap_are_a_warning(source, kind, is_frozen, told):
    sides = dict(data_idx=0) if kind == 'ModuleInputs' else {}
    model = build(distiller(source, kind, **sides), net(frozen_stages=1))
    buffers = {name: x.clone() for name, x in model.student.named_buffers()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    step(model)
    assert torch.equal(torch.rand(1), expected)
    assert modes == [module.training for module in model.modules()]
    for name, count in model.student.named_buffers():
        if name.endswith('num_batches_tracked'):
            is_in_eval = name.startswith(('backbone.bn1', 'backbone.layer1.'))
            assert count == buffers[name] + (not is_in_eval), name
    step(model)
    assert len(told) == is_frozen  # once
    if is_frozen:
        assert f'Only frozen layers lie before {source!r}' in told[0]


def test_a_connector_that_detaches():
    model = build(distiller('stage1', 'Tap', connector=dict(type='DetachingConnector')))
    with pytest.raises(
        ValueError, match=KEY + r"'f': The connector 'c' gives .*loss_f"
    ):
        step(model)


def test_a_loss_that_detaches():
    loss = dict(type='LossOfOthers', detach=['preds_S'], trained=False)
    with pytest.raises(ValueError, match=KEY + r"'f': LossOfOthers gives it no gradi"):
        step(build(distiller(loss=loss)))


def test_a_loss_that_trains_itself_alone_is_a_warning(told):
    model = build(distiller(loss=dict(type='LossOfOthers', detach=['preds_S'])))
    step(model)
    step(model)
    [text] = told
    assert "'f': LossOfOthers gives it no gradient" in text


@TASK_UTILS.register_module(force=True)
class PooledRecorder(ModuleOutputsRecorder):
    """A user's own, which computes what it gives each time it is asked."""

    def get_record_data(self, record_idx=0, data_idx=None):
        return super().get_record_data(record_idx, data_idx).mean((2, 3))


@MODELS.register_module(force=True)
class InPlaceLoss(LossOfOthers):
    """Divides what it gets by a temperature, in place."""

    def forward(self, preds_S, preds_T):
        return super().forward(preds_S.div_(4), preds_T.div_(4))


@pytest.mark.parametrize(
    'options',
    [dict(kind='Pooled'), dict(source='head', loss=dict(type='InPlaceLoss'))],
)
def test_a_record_is_not_asked_for_again(options, told):
    """It would be another tensor, or one that the loss has overwritten."""
    model = build(distiller(**options))
    assert gradients(model)['backbone.conv1.weight'].abs().sum() > 0
    assert not told


def test_a_loss_that_detaches_one_of_two_is_a_warning(told):
    cfg = distiller(loss=dict(type='LossOfOthers', detach=['more_S']))
    cfg['student_recorders'] = dict(
        cfg['student_recorders'], g=dict(type='Tap', source='pooled')
    )
    cfg['loss_forward_mappings']['loss_f']['more_S'] = dict(
        recorder='g', from_student=True
    )
    step(build(cfg))
    assert ['more_S' in text for text in told] == [True]


def test_a_deeper_feature_does_not_speak_for_a_shallower_one():
    """Its graph goes through the other one, to which the loss has no way."""
    cfg = distiller(loss=dict(type='LossOfOthers', detach=['preds_S']))
    cfg['student_recorders']['g'] = dict(type='Tap', source='stage2')
    mapping = cfg['loss_forward_mappings']['loss_f']
    mapping['more_S'] = dict(recorder='g', from_student=True)
    model = build(cfg)
    loss = step(model)['distill.loss_f']
    shallow, deep = (
        model.distiller.get_record(**mapping[x]) for x in ('preds_S', 'more_S')
    )
    assert reached([loss], [[shallow], [deep]]) == [False, True]
    assert reached([loss], [[shallow]]) == [True]


def test_a_loss_that_is_nothing_yet_is_looked_at_later():
    loss = dict(type='LossOfOthers', empty=True, trained=False)
    model = build(distiller(loss=loss))
    step(model)
    model.distiller.distill_losses.loss_f.empty = False
    model.distiller.distill_losses.loss_f.detach = ['preds_S']
    with pytest.raises(ValueError, match='no gradient'):
        step(model)


def test_what_a_stock_loss_gets_from_the_wrong_side():
    cfg = distiller('stage1', 'Tap', loss=dict(type='L2Loss'))
    record = dict(recorder='f', from_student=False)
    mapping = dict(s_feature=record, t_feature=record)
    cfg['loss_forward_mappings'] = dict(loss_f=mapping)
    # Here it trains a connector of the teacher's, say.
    assert step(build(cfg, student_trainable=False))['distill.loss_f'] == 0
    with pytest.raises(ValueError, match=r'loss_f\.s_feature` = .*from_student=True'):
        step(build(cfg))
    mapping['s_feature'] = dict(record, from_student=True)
    assert step(build(cfg))['distill.loss_f'].requires_grad


@pytest.mark.parametrize('case', ['student_trainable', 'stopped', 'eval', 'no_grad'])
def test_nothing_is_refused_where_nothing_is_taught(case):
    trainable = case != 'student_trainable'
    model = build(distiller(), net(with_cp=True), student_trainable=trainable)
    model.distillation_stopped = case == 'stopped'
    with torch.set_grad_enabled(case != 'no_grad'):
        step(model.train(case != 'eval'))


@pytest.mark.parametrize('net_of', ['student', 'teacher'])
@pytest.mark.parametrize(
    ('source', 'is_overwritten'),
    [('backbone.layer1.0.bn2', True), ('backbone.layer1', False)],
)
def test_compiled_code_is_looked_at_as_well(net_of, source, is_overwritten, told):
    """Its records do not tell that a sum in place has overwritten them."""
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    expected = None if is_overwritten else step(build(distiller(source)))
    model = build(distiller(source))
    module = getattr(model, net_of).backbone
    module._compiled_call_impl = torch.compile(module._call_impl, backend='eager')
    if is_overwritten:
        expected = rf'{net_of}_recorders\.f\.source.*overwritten'
        with pytest.raises(ValueError, match=expected):
            step(model)
    else:
        found = step(model)
        assert found['distill.loss_f'] == expected['distill.loss_f']
        assert not told
    assert module._compiled_call_impl is not None


def in_dumped_config(kind):
    return f'{kind.__module__}.{kind.__name__}'


@pytest.mark.parametrize('name', [lambda kind: kind, in_dumped_config])
def test_the_type_of_a_recorder_may_be_its_class(name):
    expected = step(build(distiller('stage1', 'Tap')))
    cfg = distiller('stage1', name(TapRecorder))
    cfg['teacher_recorders'] = dict(
        f=dict(type=name(ModuleOutputsRecorder), source='backbone.layer1')
    )
    found = step(build(cfg))
    assert found['distill.loss_f'] == expected['distill.loss_f'] > 0


def test_the_type_of_a_delivery_may_be_its_class():
    cfg = distiller()
    path = 'mmpretrain.models.utils.batch_augments.RandomBatchAugment.__call__'
    cfg['distill_deliveries'] = dict(
        name=dict(type='MethodOutputs', method_path=path, max_keep_data=1),
        own=dict(type=MethodOutputsDelivery, method_path=path, max_keep_data=2),
    )
    found = build(cfg).distiller.deliveries.deliveries
    assert {type(x) for x in found.values()} == {MethodOutputsDelivery}
    assert [x.max_keep_data for x in found.values()] == [1, 2]


@pytest.mark.parametrize('kind', ['StrictDistiller', 'ConfigurableDistiller'])
def test_mmrazors_own_distiller_is_not_silently_wrong_either(kind):
    cfg = dict(distiller('backbone.layer1.0.bn2'), type=kind)
    with pytest.raises(ValueError, match=r'recorders\.f\.source` = .*overwritten'):
        step(build(cfg))
    cfg = dict(distiller(INNER), type=kind)
    with pytest.raises(ValueError, match=KEY + '.*off'):
        step(build(cfg, net(with_cp=True)))
    assert 'distill.loss_f' in step(build(cfg))


def test_two_arguments_of_one_recorder_are_both_reached(told):
    cfg = distiller()
    mapping = cfg['loss_forward_mappings']['loss_f']
    mapping['more_S'] = mapping['preds_S']
    step(build(cfg))
    assert not told


def test_an_argument_of_another_name_needs_no_way_beside_one_that_has_it(told):
    """Here it is what a margin of the loss is made of, say."""

    @MODELS.register_module(force=True)
    class WithScale(nn.Module):
        def forward(self, preds_S, preds_T, scale, labels):
            assert labels.dtype == torch.int64
            return ((preds_S - preds_T) / scale.detach().mean()).square().mean()

    cfg = distiller(loss=dict(type='WithScale'))
    cfg['student_recorders'] = dict(
        cfg['student_recorders'],
        scale=dict(type='Tap', source='pooled'),
        labels=dict(type='ModuleInputs', source='head.loss_module'),
    )
    cfg['loss_forward_mappings']['loss_f'].update(
        scale=dict(recorder='scale', from_student=True),
        labels=dict(recorder='labels', from_student=True, data_idx=1),
    )
    step(build(cfg))
    assert not told


def test_what_is_the_students_by_name_comes_from_the_student():
    """Even if the loss trains something of its own."""

    @MODELS.register_module(force=True)
    class StockLoss(LossOfOthers):
        def forward(self, s_feature, t_feature):
            return super().forward(s_feature, t_feature)

    cfg = distiller(loss=dict(type='StockLoss'))
    record = dict(recorder='f', from_student=False)
    cfg['loss_forward_mappings'] = dict(
        loss_f=dict(s_feature=record, t_feature=dict(record))
    )
    with pytest.raises(ValueError, match=r'loss_f\.s_feature` = .*from_student=True'):
        step(build(cfg))


def test_to_find_a_cause_changes_no_random_state_and_no_statistics(told):
    def trial(frozen):
        model = build(distiller('stage1', 'Tap'))
        # Noise that is drawn in eval mode as well.
        model.student.backbone.layer2.register_forward_hook(
            lambda module, inputs, output: output + torch.randn(())
        )
        for parameter in model.student.backbone.parameters():
            parameter.requires_grad_(not frozen)
        step(model)
        return torch.get_rng_state(), copy.deepcopy(model.student.state_dict())

    (plain, statistics), (state, after) = trial(False), trial(True)
    assert len(told) == 1 and 'Only frozen layers' in told[0]
    assert torch.equal(plain, state)
    assert all(torch.equal(after[name], x) for name, x in statistics.items())
