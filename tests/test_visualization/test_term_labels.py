"""Every term that is logged has one axis, one explanation and one colour."""

import torch
from mmrazor.registry import MODELS

from cakd_mm.models.distillers import LossRatioBalancer
from cakd_mm.models.losses import CAKDFeatureLoss
from cakd_mm.models.term_axis import TermAxis
from cakd_mm.visualization.term_labels import colour_of, describe_term, known_terms


def test_the_terms_of_a_feature_loss_with_a_network_are_all_explained():
    network = dict(type='ScoringNetwork', channels=6, num_classes=3, share=0.5)
    loss = CAKDFeatureLoss(gamma='adaptive', scorer=network)
    pair = torch.rand(2, 4, 6)
    loss(*pair, gt_labels=torch.arange(4) % 3, head_weight=torch.rand(3, 6))
    shares = {'strong_mass', 'gate_mean', 'gate_spread'}
    kept = {f'kept_{part}' for part in ('strong', 'weak', 'random')}
    assert loss.terms.keys() == {'bcd', 'scd', 'wcd', 'r', 'gamma'} | shares | kept
    assert loss.terms.keys() <= known_terms().keys()


def test_the_balancers_terms_are_explained_and_no_losses():
    balancer = LossRatioBalancer('loss_a', 'loss_b')
    tensor = torch.ones(2, requires_grad=True)
    losses = balancer({'loss_a': tensor.sum(), 'loss_b': tensor.prod()})
    balancer.probe(losses, {'loss_a': tensor})
    names = balancer.terms['loss_a'].keys()
    assert names == {'lambda', 'ratio', 'grad_ratio'}
    assert names == balancer.term_labels.keys()
    assert all(describe_term(name) == balancer.term_labels[name] for name in names)


def test_no_two_classes_explain_one_term_in_two_ways():
    """A plot knows the name of a term, and not whose it is."""
    found: dict[str, set] = {}
    for kind in MODELS.module_dict.values():
        if kind.__module__.startswith('cakd_mm.'):
            for term, entry in getattr(kind, 'term_labels', {}).items():
                found.setdefault(term, set()).add(entry)
    assert found['kl'] == {(TermAxis.DIVERGENCE, 'KL: undivided')}
    assert not {term: texts for term, texts in found.items() if len(texts) > 1}


def test_a_label_has_a_colour_of_its_own_in_its_panel():
    for axis in TermAxis:
        labels = {label for own, label in known_terms().values() if own is axis}
        assert len({colour_of(label) for label in labels}) == len(labels)


def test_a_term_of_a_loss_of_ones_own_goes_by_its_name():
    assert describe_term('mine') == (TermAxis.OTHER, 'mine')
    assert describe_term('level_x') == (TermAxis.OTHER, 'level_x')
    assert colour_of('mine') is None
