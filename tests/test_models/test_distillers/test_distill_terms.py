"""What the distiller does with its losses: warm-up, auxiliary losses, terms."""

import copy

import pytest
import torch
from mmpretrain.structures import DataSample
from tiny import algorithm, digits_config, save_teacher

from cakd_mm.models.distillers.strict_distiller import short_name
from cakd_mm.models.losses import CAKDLogitLoss
from cakd_mm.models.losses.base import DistillLoss

NETWORK = 'cakd/ablations/digits/digits_logit-single_network.py'
DOUBLE = 'cakd/ablations/digits/digits_logit-double_activation.py'
SCORER_LOSS = 'distill.loss_feature.scorer_loss'
KEPT = {f'feature/kept_{part}' for part in ('strong', 'weak', 'random')}
OF_LOGITS = {f'cakd/{name}' for name in ('bcd', 'scd', 'wcd', 'strong_mass')}
OF_FEATURE = {
    f'feature/{name}'
    for name in (
        *('bcd', 'scd', 'wcd', 'strong_mass', 'r'),
        *('gate_mean', 'gate_spread', 'lambda', 'ratio'),
    )
}
PROBED = KEPT | {'feature/grad_ratio'}


class Gap(DistillLoss):
    """A loss of a user's own, with a name that a balancer uses as well."""

    def forward(self, preds_S, preds_T):
        gap = (preds_S - preds_T).square().mean(-1)
        self.log_terms(gap=gap, ratio=gap)
        return gap.mean()


class MoreOfAGap(Gap):
    @property
    def terms(self):
        return {**super().terms, 'two': torch.tensor(2.0)}


class MoreOfClusters(CAKDLogitLoss):
    @property
    def terms(self):
        return {**super().terms, 'two': torch.tensor(2.0)}


class GapOfClusters(CAKDLogitLoss):
    def forward(self, preds_S, preds_T, gt_labels):
        loss = super().forward(preds_S, preds_T, gt_labels)
        self.log_terms(gap=(preds_S - preds_T).square().mean(-1))
        return loss


@pytest.fixture
def make(tmp_path):
    """Build the algorithm of a Digits config, the same at every call."""

    def build(name=NETWORK, change=None):
        teacher = save_teacher(tmp_path / 'teacher.pth')
        cfg = digits_config(name, model__teacher_ckpt=str(teacher))
        if change is not None:
            change(cfg.model.distiller)
        model = algorithm(cfg)
        model.distiller.probing = True
        return model

    return build


def feed_as_the_logits(distiller, name):
    """Give a further loss what the CAKD loss is given."""
    records = distiller.loss_forward_mappings.loss_cakd
    distiller.loss_forward_mappings[name] = {
        side: copy.deepcopy(records[side]) for side in ('preds_S', 'preds_T')
    }


def with_stock_loss(distiller):
    """Add mmrazor's own loss, which knows nothing of terms."""
    distiller.distill_losses.loss_kd = dict(type='KLDivergence', tau=2.0)
    feed_as_the_logits(distiller, 'loss_kd')


def with_ctkd_balanced(distiller):
    """Add CTKD, which has a lambda too, to what is balanced."""
    distiller.distill_losses.loss_ctkd = dict(type='CTKDLoss', epochs=4)
    feed_as_the_logits(distiller, 'loss_ctkd')
    distiller.balancer.losses = ['loss_feature', 'loss_ctkd']
    without_limits(distiller)


def without_limits(distiller):
    """Untrained nets' values can be further apart than lambda's limits."""
    distiller.balancer.limits = (1e-9, 1e9)


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def losses_of(model, seed=0):
    """The losses of one batch of eight."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (8, 3, 16, 16), generator=generator)
    samples = [DataSample().set_gt_label(i % 10) for i in range(8)]
    batch = dict(inputs=images.to(torch.uint8), data_samples=samples)
    torch.manual_seed(seed)
    return model(**model.data_preprocessor(batch, True), mode='loss')


def test_warmup_multiplies_every_distillation_loss_and_no_other(make):
    """``ratio`` and the clusters' terms do not shrink with the warm-up."""
    plain, model = make(change=with_stock_loss), make(change=with_stock_loss)
    model.distiller.warmup = 0.05
    full, found = losses_of(plain), losses_of(model)
    warmed = {'distill.loss_cakd', 'distill.loss_feature', 'distill.loss_kd'}
    assert found.keys() == full.keys() == {'student.loss', SCORER_LOSS, *warmed}
    for name, loss in full.items():
        assert loss.item() > 1e-3, name
        if name in warmed:
            expected = 0.05 * loss.item()
            assert found[name].item() == pytest.approx(expected, rel=1e-6)
        else:
            assert torch.equal(found[name], loss), name
    assert_equal(model.distiller.terms(), plain.distiller.terms())


@pytest.mark.parametrize('probing', [True, False])
def test_names_of_the_terms(make, probing):
    model = make(change=with_stock_loss)
    model.distiller.probing = probing
    losses_of(model)
    terms = model.distiller.terms()
    assert terms.keys() == OF_LOGITS | OF_FEATURE | (PROBED if probing else set())
    assert not [name for name in terms if 'loss' in name]
    for name, value in terms.items():
        assert value.shape == (), name
        assert not value.requires_grad, name
        assert value.isfinite(), name


def test_probing_changes_no_loss_and_no_gradient(make):
    """It draws no numbers either: dropout would depend on what is logged."""
    results, states = [], []
    for probing in (True, False):
        model = make()
        model.distiller.probing = probing
        losses = losses_of(model)
        states.append(torch.get_rng_state())
        total, _ = model.parse_losses(losses)
        total.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        results.append((losses, grads))
    assert torch.equal(*states)
    for first, second in zip(*results, strict=True):
        assert_equal(first, second)


def test_the_sum_takes_the_scorers_loss_and_no_term(make):
    model = make()
    losses = losses_of(model)
    assert losses.keys() == {
        *('student.loss', 'distill.loss_cakd', 'distill.loss_feature'),
        SCORER_LOSS,
    }
    total, logged = model.parse_losses(losses)
    expected = sum(loss.item() for loss in losses.values())
    assert total.item() == pytest.approx(expected, rel=1e-6)
    assert losses[SCORER_LOSS].item() > 1  # cross-entropy of ten classes
    assert total.item() > losses[SCORER_LOSS].item() + 1
    assert logged.keys() == {'loss', *losses}


def test_eval_has_no_loss_of_the_scorer_and_does_not_move_the_balance(make):
    model = make()
    losses_of(model)
    before = model.distiller.balancer.means.value.clone()
    losses = losses_of(model.eval(), seed=1)
    assert SCORER_LOSS not in losses
    assert losses['distill.loss_feature'] > 0
    assert torch.equal(model.distiller.balancer.means.value, before)
    with torch.no_grad():
        losses_of(model.train(), seed=1)
    assert not torch.equal(model.distiller.balancer.means.value, before)
    terms = model.distiller.terms()
    assert 'feature/lambda' in terms
    assert 'feature/grad_ratio' not in terms


def test_the_lambda_of_the_balancer_is_not_that_of_ctkd(make):
    """Both are in the log, each by its own name and with its own value."""
    model = make(change=with_ctkd_balanced)
    distiller = model.distiller
    loss = distiller.distill_losses['loss_ctkd']
    loss.set_epoch(1)
    losses = losses_of(model)
    terms = distiller.terms()
    found = {name for name in terms if name.startswith('ctkd/')}
    names = ('temperature', 'reversal', 'lambda', 'ratio', 'grad_ratio')
    assert found == {f'ctkd/{name}' for name in names}
    assert terms['ctkd/temperature'].item() == pytest.approx(15.6211716)
    assert terms['ctkd/reversal'].item() == pytest.approx(-0.5)
    mapping = distiller.loss_forward_mappings['loss_ctkd']
    given = {k: distiller.get_record(**record) for k, record in mapping.items()}
    value = terms['ctkd/lambda'] * loss(**given)
    assert value.item() == pytest.approx(losses['distill.loss_ctkd'].item(), rel=1e-5)
    assert value.item() == pytest.approx(losses['distill.loss_cakd'].item() / 2, 1e-5)


@pytest.mark.parametrize(
    ('name', 'tap', 'index'),
    [
        pytest.param('loss_feature', 'neck', 0, id='vector-of-a-tuple'),
        pytest.param('loss_second', 'backbone.stage2', None, id='map'),
    ],
)
def test_grad_ratio_is_that_of_the_tapped_tensor(make, name, tap, index):
    """Of what the student's module puts out, before the connector."""
    model = make(DOUBLE)
    seen = []

    def keep(module, args, output):
        seen.append(output if index is None else output[index])

    dict(model.student.named_modules())[tap].register_forward_hook(keep)
    losses = losses_of(model)
    norms = []
    for loss in (name, 'loss_cakd'):
        (grad,) = torch.autograd.grad(
            losses[f'distill.{loss}'], seen[0], retain_graph=True
        )
        norms.append(grad.double().square().sum().sqrt().item())
    short = name.removeprefix('loss_')
    found = model.distiller.terms()[f'{short}/grad_ratio'].item()
    assert found == pytest.approx(norms[0] / norms[1], rel=1e-5)
    assert abs(found - 1) > 1e-3  # the values' ratio is another matter


@pytest.mark.parametrize(
    ('weighted', 'factor'), [('loss_cakd', 7), ('loss_feature', 1), ('loss_second', 1)]
)
def test_loss_weight_moves_the_reference_but_no_balanced_loss(make, weighted, factor):
    """Two balanced losses share the ratio."""

    def heavier(distiller):
        without_limits(distiller)
        distiller.distill_losses[weighted].loss_weight = 7.0

    plain = losses_of(make(DOUBLE, change=without_limits))['distill.loss_cakd'].item()
    model = make(DOUBLE, change=heavier)
    losses = losses_of(model)
    expected = factor * plain
    assert losses['distill.loss_cakd'].item() == pytest.approx(expected, rel=1e-5)
    for name in ('feature', 'second'):
        value = losses[f'distill.loss_{name}'].item()
        assert value == pytest.approx(expected / 2, rel=1e-5)
        ratio = model.distiller.terms()[f'{name}/ratio'].item()
        assert ratio == pytest.approx(0.5, rel=1e-5)


def test_a_balancer_of_an_unknown_loss_is_refused(make):
    match = r"`model\.distiller\.balancer\.losses\.1` = 'loss_secnd'.*'loss_second'"
    change = dict(losses=['loss_feature', 'loss_secnd'])
    with pytest.raises(ValueError, match=match):
        make(DOUBLE, change=lambda distiller: distiller.balancer.update(change))


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('loss_cakd', 'cakd'),
        ('kd_loss', 'kd'),
        ('my_loss_a', 'my_a'),
        ('lossy', 'y'),
        ('loss', 'cakd'),
        ('plain', 'plain'),
    ],
)
def test_short_names(name, expected):
    assert short_name(name) == expected


@pytest.mark.parametrize(
    ('loss', 'names'),
    [
        (Gap, {'gap', 'ratio'}),
        (MoreOfAGap, {'gap', 'ratio', 'two'}),
        (MoreOfClusters, {'bcd', 'scd', 'wcd', 'strong_mass', 'two'}),
        (GapOfClusters, {'bcd', 'scd', 'wcd', 'strong_mass', 'gap'}),
    ],
)
def test_terms_of_a_users_own_loss(make, loss, names):
    def change(distiller):
        distiller.distill_losses.loss_own = dict(type=loss)
        feed_as_the_logits(distiller, 'loss_own')
        if issubclass(loss, CAKDLogitLoss):
            records = distiller.loss_forward_mappings
            records.loss_own = copy.deepcopy(records.loss_cakd)

    model = make(change=change)
    losses_of(model)
    terms = model.distiller.terms()
    found = {name[4:]: x for name, x in terms.items() if name.startswith('own/')}
    assert found.keys() == names
    assert_equal(found, model.distiller.distill_losses['loss_own'].terms)
    assert all(value.shape == () for value in found.values())
    # A line of the log adds up the rows of several steps.
    rows = {key: 3 * row for key, row in model.distiller.rows().items()}
    means = model.distiller.terms_of({key: row / 3 for key, row in rows.items()})
    for name, value in found.items():
        assert means[f'own/{name}'].item() == pytest.approx(value.item(), rel=1e-5)


def test_warnings_name_the_loss_they_come_from(make):
    model = make()
    losses_of(model)
    distiller = model.distiller
    scorer = distiller.distill_losses['loss_feature'].scorer
    fine = {name: value.item() for name, value in distiller.terms().items()}
    fine['feature/lambda'] = 1.0  # the untrained teacher takes it to its limit
    scorer.patience = 1
    assert distiller.warnings({**fine, 'feature/gate_spread': 0.2}) == []
    [text] = distiller.warnings({**fine, 'feature/gate_spread': 0.001})
    assert text.startswith('model.distiller.distill_losses.loss_feature: ')
    assert 'collapsed' in text
    # Terms of another loss are none of its business.
    assert distiller.warnings({'another/gate_spread': 0.001}) == []
    scorer.patience = 2
    assert distiller.warnings({**fine, 'feature/gate_spread': 0.001}) == []
