"""Mappings that name several recorders for one argument of a loss."""

import copy

import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from tiny import algorithm, digits_config, save_teacher
from torch.testing import assert_close

from cakd_mm.models.losses.functional.ofd import margin_of

KEY = r'`model\.distiller\.loss_forward_mappings\.loss_'
STAGES = ['backbone.stage1', 'backbone.stage2', 'backbone.stage3']


def outputs(*sources, **named):
    sources = {**dict(zip(('s1', 's2', 's3'), sources, strict=False)), **named}
    return {k: dict(type='ModuleOutputs', source=v) for k, v in sources.items()}


def norms():
    """The last normalisation of the teacher's stages."""
    return {
        f'{kind[0]}{i}': dict(
            type='Parameter', source=f'backbone.stage{i}.2.bn2.{kind}'
        )
        for i in (1, 2, 3)
        for kind in ('weight', 'bias')
    }


def review():
    """ReviewKD: one connector for the list, the pooled vector out of a tuple."""
    names = ['s1', 's2', 's3', 'pooled']
    index = [None, None, None, 0]
    return dict(
        student_recorders=outputs(*STAGES, pooled='neck'),
        teacher_recorders=outputs(*(f'{s}_pre' for s in STAGES), pooled='neck'),
        connectors=dict(fusion=dict(type='FusionConnector')),
        distill_losses=dict(loss_review=dict(type='HCLLoss', loss_weight=2.0)),
        loss_forward_mappings=dict(
            loss_review=dict(
                preds_S=dict(
                    recorder=names,
                    from_student=True,
                    data_idx=index,
                    connector='fusion',
                ),
                preds_T=dict(recorder=names, from_student=False, data_idx=index),
            )
        ),
    )


def overhaul():
    """OFD: a connector for each, and the teacher's parameters."""
    names, fits = ['s1', 's2', 's3'], ['f1', 'f2', 'f3']
    fit = dict(type='MapConnector', norm_cfg=dict(type='BN'))
    theirs = {
        name: dict(recorder=[f'{kind}{i}' for i in (1, 2, 3)], from_student=False)
        for name, kind in (('bn_weights', 'w'), ('bn_biases', 'b'))
    }
    taps = [f'{stage}_pre' for stage in STAGES]
    return dict(
        student_recorders=outputs(*taps),
        teacher_recorders={**outputs(*taps), **norms()},
        connectors={name: copy.deepcopy(fit) for name in fits},
        distill_losses=dict(loss_ofd=dict(type='OFDFeatureLoss')),
        loss_forward_mappings=dict(
            loss_ofd=dict(
                preds_S=dict(recorder=names, from_student=True, connector=fits),
                preds_T=dict(recorder=names, from_student=False),
                **theirs,
            )
        ),
    )


@pytest.fixture
def make(tmp_path):
    """Build the algorithm on Digits with some distiller."""

    def build(distiller):
        teacher = save_teacher(tmp_path / 'teacher.pth')
        cfg = digits_config('cakd/demo_digits.py', model__teacher_ckpt=str(teacher))
        cfg.model.distiller = dict(type='StrictDistiller', **copy.deepcopy(distiller))
        return algorithm(cfg)

    return build


def losses_of(model):
    images = torch.randint(
        0, 256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0)
    )
    samples = [DataSample().set_gt_label(i) for i in range(4)]
    batch = dict(inputs=images.to(torch.uint8), data_samples=samples)
    return model(**model.data_preprocessor(batch, True), mode='loss')


def watched(model, side, sources):
    """What the modules of a net put out when it runs next."""
    modules = dict(getattr(model, side).named_modules())
    outputs = {}
    for source in sources:

        def keep(module, args, output, source=source):
            outputs[source] = output[0] if isinstance(output, tuple) else output

        modules[source].register_forward_hook(keep)
    return outputs


def test_a_connector_for_the_whole_list(make):
    model = make(review())
    sources = [*STAGES, 'neck'], [*(f'{s}_pre' for s in STAGES), 'neck']
    student = watched(model, 'student', sources[0])
    teacher = watched(model, 'teacher', sources[1])
    losses = losses_of(model)
    distiller = model.distiller
    fused = distiller.connectors['fusion']([student[s] for s in sources[0]])
    loss = distiller.distill_losses['loss_review']
    expected = loss(fused, [teacher[s] for s in sources[1]])
    assert_close(losses['distill.loss_review'], expected)
    assert expected > 0
    terms = distiller.terms()
    assert list(terms) == [f'review/level_{i}' for i in (1, 2, 3, 4)]
    losses['distill.loss_review'].backward()
    for parameter in distiller.parameters():
        assert parameter.grad.abs().max() > 0
    # Of the last stage, whose map is pooled, the stem and the norms.
    assert model.student.backbone.conv1.weight.grad.abs().max() > 0
    assert not any(p.grad is not None for p in model.teacher.parameters())


def test_a_connector_for_each(make):
    model = make(overhaul())
    taps = [f'{stage}_pre' for stage in STAGES]
    student = watched(model, 'student', taps)
    teacher = watched(model, 'teacher', taps)
    losses = losses_of(model)
    distiller = model.distiller
    fitted = [
        distiller.connectors[f'f{i}'](student[tap]) for i, tap in enumerate(taps, 1)
    ]
    parameters = dict(model.teacher.named_parameters())
    ours = [
        [parameters[f'backbone.stage{i}.2.bn2.{kind}'] for i in (1, 2, 3)]
        for kind in ('weight', 'bias')
    ]
    assert margin_of(ours[0][0], ours[1][0]).max() < 0
    loss = distiller.distill_losses['loss_ofd']
    expected = loss(fitted, [teacher[tap] for tap in taps], *ours)
    assert_close(losses['distill.loss_ofd'], expected)
    losses['distill.loss_ofd'].backward()
    grads = [p.grad for p in distiller.parameters()]
    assert len(grads) == 9
    assert all(grad.abs().max() > 0 for grad in grads)
    assert not any(p.grad is not None for p in model.teacher.parameters())


def test_options_of_a_list_are_one_for_all_or_one_for_each(make):
    model = make(review())
    losses_of(model)
    get = model.distiller.get_record
    pooled = get('pooled', True, data_idx=0)
    whole = get('pooled', True)
    assert isinstance(whole, tuple)
    names = ['pooled', 'pooled']
    assert get(names, True) == [whole, whole]
    both = get(names, True, data_idx=0)
    assert [id(x) for x in both] == [id(pooled)] * 2
    mixed = get(names, True, data_idx=[None, 0])
    assert mixed[0] is whole
    assert mixed[1] is pooled
    stages = get(['s1', 's2'], True, record_idx=[0, 0])
    assert [x.shape[1] for x in stages] == [16, 32]
    everything = ['s1', 's2', 's3', 'pooled']
    options = dict(data_idx=[None, None, None, 0], connector='fusion')
    fused = get(everything, True, **options)
    assert [x.shape[1] for x in fused] == [16, 32, 64, 64]
    assert get(everything, True, connector_idx=1, **options).shape == fused[1].shape
    with pytest.raises(AssertionError, match='record_idx'):
        get(['s1', 's2'], True, record_idx=[0, 1])


def test_one_of_several_may_have_no_connector(make):
    distiller = overhaul()
    mapping = distiller['loss_forward_mappings']['loss_ofd']
    mapping['preds_S']['connector'] = ['f1', None, 'f3']
    del distiller['connectors']['f2']
    model = make(distiller)
    losses_of(model)
    found = model.distiller.get_record(**mapping['preds_S'])
    second = model.distiller.get_record('s2', True)
    assert found[1] is second
    assert found[0] is not model.distiller.get_record('s1', True)
    first = model.distiller.get_record(
        ['s1', 's2'], True, connector=['f1', None], connector_idx=[0, None]
    )
    assert first[0].shape == found[0].shape[1:]
    assert first[1] is second


def test_grad_ratio_of_a_list_is_that_of_the_shallowest(make):
    distiller = review()
    logits = dict(logits=dict(type='ModuleOutputs', source='head'))
    for side in ('student', 'teacher'):
        distiller[f'{side}_recorders'].update(logits)
    distiller['distill_losses']['loss_kd'] = dict(type='KLDivergence', tau=2.0)
    distiller['loss_forward_mappings']['loss_kd'] = {
        name: dict(recorder='logits', from_student=name == 'preds_S')
        for name in ('preds_S', 'preds_T')
    }
    distiller['balancer'] = dict(
        type='LossRatioBalancer',
        losses='loss_review',
        reference='loss_kd',
        limits=(1e-9, 1e9),
    )
    model = make(distiller)
    model.distiller.probing = True
    seen = watched(model, 'student', STAGES)
    losses = losses_of(model)
    norms = [
        torch.autograd.grad(
            losses[f'distill.loss_{name}'], seen['backbone.stage1'], retain_graph=True
        )[0].norm()
        for name in ('review', 'kd')
    ]
    found = model.distiller.terms()['review/grad_ratio']
    assert_close(found, norms[0] / norms[1])


# Mistakes


def strict(distiller):
    with DefaultScope.overwrite_default_scope('mmrazor'):
        return MODELS.build(dict(type='StrictDistiller', **distiller))


def with_widths(distiller):
    for connector in distiller['connectors'].values():
        widths = 16 if connector['type'] == 'MapConnector' else [16, 32, 64, 64]
        connector.update(in_channels=widths, out_channels=widths)
    return distiller


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        (dict(recorder=[]), r'review\.preds_S\.recorder` = \[\]: No recorder'),
        (dict(recorder=['s1', 's9']), r"S\.recorder\.1` = 's9': .*recorders\.s1'"),
        (dict(recorder=['s1', ['s2']]), r"preds_S\.recorder\.1` = \['s2'\]: "),
        (dict(data_idx=[None, 0]), r'data_idx` = \[None, 0\]: It has 2.*4 recorders'),
        (dict(connector_idx=[0] * 4), r"connector_idx`.*'fusion' takes all.*single"),
        (dict(connector='fuse'), r"connector` = 'fuse'.*'connectors\.fusion'"),
        (dict(connector=['fusion', 1, None, None]), r'connector\.1` = 1'),
        (dict(connector=['fusion'] * 4), r'FusionConnector takes a list'),
        (dict(recorder='s1', data_idx=None), r"FusionConnector takes a list.*'s1'"),
        (dict(recorder='s1'), r'data_idx`.*one recorder only.*single value'),
    ],
    ids=str,
)
def test_what_a_list_cannot_be(change, match):
    distiller = with_widths(review())
    distiller['loss_forward_mappings']['loss_review']['preds_S'].update(change)
    with pytest.raises((TypeError, ValueError), match=match):
        strict(distiller)


def test_a_connector_of_one_feature_gets_no_list():
    distiller = with_widths(overhaul())
    mapping = distiller['loss_forward_mappings']['loss_ofd']
    mapping['preds_S']['connector'] = 'f1'
    expected = r'ofd\.preds_S\.connector` = .f1.: MapConnector does not take.*for each'
    with pytest.raises(ValueError, match=KEY + expected):
        strict(distiller)
    # Of connectors in a row the first is asked.
    distiller = with_widths(review())
    fusion = distiller['connectors']['fusion']
    fit = dict(type='MapConnector', in_channels=1, out_channels=1)
    distiller['connectors']['fusion'] = [fusion, fit]
    strict(distiller)
    distiller['connectors']['fusion'] = [fit, fusion]
    with pytest.raises(ValueError, match='MapConnector does not take a list'):
        strict(distiller)
