"""What the panels of a run show."""

import pytest
from tiny_runs import log_terms

from cakd_mm.visualization.history import History, read_history
from cakd_mm.visualization.terms import loss_panels, run_panels


@pytest.mark.parametrize(('last', 'log'), [(0.11, False), (0.09, True)])
def test_panels_of_a_logit_loss(last, log):
    lines = log_terms(bcd=(3, last), scd=(0, 0), wcd=(1, 2), strong_mass=(0.7, 0.8))
    history = History(lines, [])
    panels = loss_panels(history, 'x', dict(type='CAKDLogitLoss'), 10, None)
    values, shares = panels
    assert [label[:3] for label in values.curves] == ['BCD', 'WCD']
    assert values.curves['BCD: between the clusters'] == ([1, 2], [3, last])
    assert values.note == 'not drawn, 0 throughout: SCD'
    assert values.log is log
    assert list(shares.levels.values()) == [0.1]


def test_panels_of_a_feature_loss():
    terms = dict(bcd=(0, 0), scd=(1, 1), wcd=(2, 2), strong_mass=(0.3, 0.3))
    terms.update(kept_strong=(1, 1), gate_mean=(0.5, 0.5), r=(2, 2), ratio=(3, 3))
    history = History(log_terms(**terms), [])
    loss = dict(
        type='CAKDFeatureLoss',
        strong_share=0.25,
        scorer=dict(type='ScoringNetwork', share=0.5),
    )
    values, shares, factors = loss_panels(history, 'x', loss, 8, 2.0)
    assert 'BCD' in values.note
    assert sorted(shares.levels.values()) == [1 / 8, 0.25, 0.5]
    assert len(shares.curves) == 3
    assert sorted(factors.levels.values()) == [1, 2]
    assert factors.log


@pytest.mark.parametrize(
    ('terms', 'axes', 'levels'),
    [
        pytest.param(
            dict(tckd=(1, 1), nckd=(2, 2), target_mass=(0.5, 0.5)),
            {'divergence × τ² (nats), no weight': 2, 'share': 1},
            ['1/10: target_mass of equal classes'],
            id='dkd',
        ),
        pytest.param(
            {'temperature': (15, 16), 'reversal': (0, -1), 'lambda': (2, 2)},
            {
                'temperature (logit)': 1,
                "factor of the temperature's gradient": 1,
                'factor (no unit)': 1,
            },
            ['1: equal'],
            id='ctkd',
        ),
        pytest.param(
            dict(pearson=(0.1, 0.1), spearman=(0.2, 0.2), difficulty=(0.9, 0.9)),
            {'1 - correlation, no weight': 2, 'share': 1},
            [],
            id='cmkd',
        ),
        pytest.param(
            dict(level_1=(1, 1), level_2=(2, 2), level_10=(3, 3)),
            {'squared difference, no weight': 3},
            [],
            id='levels',
        ),
        pytest.param(
            dict(mine=(1, 1), level_0=(2, 2)),
            {'value, no weight': 2},
            [],
            id='unknown',
        ),
    ],
)
def test_terms_of_one_unit_share_a_panel(terms, axes, levels):
    history = History(log_terms(**terms), [])
    panels = loss_panels(history, 'x', dict(type='Any'), 10, None)
    assert {panel.ylabel: len(panel.curves) for panel in panels} == axes
    assert [name for panel in panels for name in panel.levels] == levels
    drawn = sorted(y for panel in panels for _, y in panel.curves.values())
    assert drawn == sorted(list(values) for values in terms.values())


def test_no_panel_is_empty():
    history = History(log_terms(bcd=(0, 0), wcd=(0, 0)), [])
    loss = dict(type='CAKDLogitLoss')
    assert loss_panels(history, 'x', loss, 10, None) == []
    assert loss_panels(history, 'other', loss, 10, None) == []
    [panel] = run_panels(history)
    assert panel.curves == {'loss: the sum of all': ([1, 2], [1, 1])}
    assert run_panels(History([], [])) == []


def test_the_terms_of_a_trained_run_are_all_drawn(trained):
    history, cfg = read_history(trained)
    assert history.steps_per_epoch == 3
    loss = dict(cfg.model.distiller.distill_losses.loss_feature)
    panels = loss_panels(history, 'feature', loss, 10, 1.0)
    labels = [label for panel in panels for label in panel.curves]
    assert len(labels) == len(history.terms()['feature']) >= 13
    # Each has an explanation, and a value of every step.
    assert all(': ' in label for label in labels)
    assert all(len(x) == 6 for panel in panels for x, _ in panel.curves.values())
