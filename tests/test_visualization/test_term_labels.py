"""Every term that a loss logs has an axis and an explanation."""

import pytest
import torch
from mmrazor.registry import MODELS

from cakd_mm.models import losses as package
from cakd_mm.models.distillers import LossRatioBalancer
from cakd_mm.visualization.term_labels import AXES, COLOURS, OTHER, describe_term

PAIR, LABELS = ('preds_S', 'preds_T'), 'gt_labels'
MAPS = dict.fromkeys(PAIR, [torch.rand(4, 6, 2, 2), torch.rand(4, 6)])
NORMS = {name: [torch.ones(6)] * 2 for name in ('bn_weights', 'bn_biases')}
NETWORK = dict(type='ScoringNetwork', channels=6, num_classes=3, share=0.5)
# By the loss: its settings, and what it takes beside two tensors (4, 6).
CASES = {
    'CAKDFeatureLoss': (
        dict(gamma='adaptive', scorer=NETWORK),
        dict(gt_labels=torch.arange(4) % 3, head_weight=torch.rand(3, 6)),
    ),
    'CAKDLogitLoss': ({}, {LABELS: torch.arange(4)}),
    'CMKDLoss': ({}, {}),
    'CRDBankLoss': (dict(channels_S=6, channels_T=6, negatives=3), {}),
    'CTKDLoss': ({}, {}),
    'DecoupledKDLoss': ({}, {LABELS: torch.arange(4)}),
    'FeatureKLLoss': ({}, {}),
    'FeatureSquaredLoss': ({}, {}),
    'HCLLoss': ({}, MAPS),
    'NKDLoss': ({}, {LABELS: torch.arange(4)}),
    'OFDFeatureLoss': ({}, {**MAPS, **NORMS}),
}


def terms_of(kind: str) -> dict:
    """Return the terms of a step of a loss."""
    settings, inputs = CASES[kind]
    loss = MODELS.build(dict(type=kind, **settings)).train()
    if hasattr(loss, 'set_dataset'):
        loss.set_dataset([0, 1] * 4)
        loss.indices = torch.arange(4)
    if hasattr(loss, 'set_epoch'):
        loss.set_epoch(0)
    torch.manual_seed(0)
    loss(**{**{name: torch.rand(4, 6) for name in PAIR}, **inputs})
    return loss.terms


def test_no_registered_loss_is_forgotten():
    ours = {
        name
        for name, kind in MODELS.module_dict.items()
        if kind.__module__.startswith(f'{package.__name__}.')
    }
    assert ours == CASES.keys()


@pytest.mark.parametrize('kind', sorted(CASES))
def test_every_term_of_a_loss_is_explained(kind):
    terms = terms_of(kind)
    assert terms
    labels = {}
    for term in terms:
        axis, label = describe_term(term)
        assert axis in AXES and axis != OTHER, term
        name, _, text = label.partition(': ')
        assert name.lower() == term.lower() and text, term
        labels[term] = label
    assert len(set(labels.values())) == len(terms)


def test_the_terms_of_a_feature_loss_are_all_there():
    """Of the settings above, so that none of them hides from the test before."""
    shares = {'strong_mass', 'gate_mean', 'gate_spread'}
    kept = {f'kept_{part}' for part in ('strong', 'weak', 'random')}
    own = {'bcd', 'scd', 'wcd', 'r', 'gamma'}
    assert terms_of('CAKDFeatureLoss').keys() == own | shares | kept


@pytest.mark.parametrize('kind', sorted(CASES))
def test_no_term_of_a_loss_has_a_name_of_the_balancers(kind):
    balancer = LossRatioBalancer('loss_a', 'loss_b')
    tensor = torch.ones(2, requires_grad=True)
    losses = balancer({'loss_a': tensor.sum(), 'loss_b': tensor.prod()})
    balancer.probe(losses, {'loss_a': tensor})
    names = balancer.terms['loss_a'].keys()
    assert names == {'lambda', 'ratio', 'grad_ratio'}
    assert names.isdisjoint(terms_of(kind))
    assert all(describe_term(name)[0] != OTHER for name in names)


def test_nothing_is_explained_twice():
    terms = [term for table in AXES.values() for term in table]
    assert len(set(terms)) == len(terms)
    assert len(COLOURS) == len(terms)
    for table in AXES.values():
        assert len({COLOURS[label] for label in table.values()}) == len(table)


def test_a_term_of_a_loss_of_ones_own_goes_by_its_name():
    assert describe_term('mine') == (OTHER, 'mine')
    assert describe_term('level_x') == (OTHER, 'level_x')
