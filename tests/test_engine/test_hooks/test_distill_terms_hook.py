import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import MessageHub
from reading import ReadError, no_reading
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import digits_config, distill_config, save_teacher
from torch import nn

from cakd_mm.engine.hooks import DistillTermsHook
from cakd_mm.visualization.history import read_history
from cakd_mm.visualization.terms import draw_terms

NETWORK = 'cakd/ablations/digits/digits_logit-single_network.py'
FEATURE = 'cakd/ablations/digits/digits_single_network.py'
LOSS = 'model.distiller.distill_losses.loss_feature'
STEPS = 5  # batches an epoch
PROBED = {
    'feature/grad_ratio',
    *(f'feature/kept_{part}' for part in ('strong', 'weak', 'random')),
}
NAMES = {
    *(f'cakd/{name}' for name in ('bcd', 'scd', 'wcd', 'strong_mass')),
    *(f'feature/{name}' for name in ('bcd', 'scd', 'wcd', 'strong_mass', 'r')),
    *(f'feature/{name}' for name in ('gate_mean', 'gate_spread', 'lambda', 'ratio')),
}


class Watch(Hook):
    """Keeps the terms of every step, and whether it was to probe."""

    priority = 'HIGH'

    def __init__(self):
        self.steps, self.probing = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        distiller = runner.model.distiller
        terms = distiller.terms()
        self.steps.append({name: float(value) for name, value in terms.items()})
        self.probing.append(distiller.probing)


@pytest.fixture
def start(tmp_path, make_runner):
    """Build a run of two epochs of five steps."""

    def build(name=NETWORK, logger=None, scorer=None, **options):
        teacher = save_teacher(tmp_path / 'teacher.pth')
        options |= dict(train_dataloader__batch_size=8)
        cfg = digits_config(
            name, 8 * STEPS, model__teacher_ckpt=str(teacher), **options
        )
        cfg.default_hooks.pop('extract')
        cfg.default_hooks.logger.update(logger or {})
        if scorer is not None:
            cfg.model.distiller.distill_losses.loss_feature.scorer.update(scorer)
        runner = make_runner(cfg)
        runner.watch = Watch()
        runner.register_hook(runner.watch)
        return runner

    return build


def log_of(runner):
    [file] = Path(runner.work_dir).glob('*/vis_data/scalars.json')
    entries = [json.loads(line) for line in file.open()]
    return [entry for entry in entries if 'loss' in entry]


def mean(values):
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ('logger', 'lines'),
    [
        # The fifth step of an epoch counts in the next epoch's first line.
        pytest.param(dict(interval=2), [2, 4, 7, 9], id='last-step-carried-over'),
        pytest.param(
            dict(interval=2, ignore_last=False), [2, 4, 5, 7, 9, 10], id='last-too'
        ),
        pytest.param(dict(interval=100), [5, 10], id='longer-than-the-epoch'),
    ],
)
def test_a_line_has_the_means_since_the_last(start, logger, lines):
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    runner = start(logger=logger, visualizer__vis_backends=backends)
    runner.train()
    steps, probing, entries = runner.watch.steps, runner.watch.probing, log_of(runner)
    assert [entry['iter'] for entry in entries] == list(lines)
    assert probing == [step in lines for step in range(1, 11)]
    last = 0
    for line, entry in zip(lines, entries, strict=True):
        part = steps[last:line]
        assert all(step.keys() == NAMES for step in part[:-1])
        assert part[-1].keys() == NAMES | PROBED
        assert {name for name in entry if '/' in name} == NAMES | PROBED
        for name in NAMES:
            expected = mean([step[name] for step in part])
            assert entry[name] == pytest.approx(expected, rel=1e-5), name
        for name in PROBED:
            assert entry[name] == pytest.approx(part[-1][name], rel=1e-5), name
        last = line
    # Otherwise a mean and the last value could not be told apart.
    assert len({step['feature/bcd'] for step in steps}) == 10
    [file] = Path(runner.work_dir).rglob('events.out.*')
    events = EventAccumulator(str(file))
    events.Reload()
    for name in NAMES | PROBED:
        values = [event.value for event in events.Scalars(name)]
        assert values == pytest.approx([entry[name] for entry in entries], rel=1e-5)


def test_without_a_logger_nothing_is_probed():
    hook = DistillTermsHook()
    distiller = SimpleNamespace(rows=dict, losses=dict, probing=True)
    model = nn.Module()
    model.distiller = distiller
    hub = MessageHub.get_instance('unlogged')
    runner = SimpleNamespace(model=model, hooks=[hook], message_hub=hub, iter=0)
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    assert distiller.probing is False


class TestMeans:
    """The hook alone, with terms that are made up."""

    @pytest.fixture
    def run(self):
        model = nn.Module()
        model.distiller = SimpleNamespace(probing=None, warnings=lambda terms: [])
        logger = LoggerHook(interval=3)
        hub = MessageHub.get_instance('terms')
        runner = SimpleNamespace(
            model=model, hooks=[logger], message_hub=hub, train_dataloader=[0] * 6
        )
        model.distiller.rows = model.distiller.terms_of = dict
        model.distiller.losses = dict

        def steps(rows, start=0):
            runner.iter = start
            hook = DistillTermsHook()
            hook.before_train(runner)
            for index, row in enumerate(rows, start):
                found = {name: torch.as_tensor(value) for name, value in row.items()}
                model.distiller.rows = lambda found=found: found
                hook.before_train_iter(runner, index)
                hook.after_train_iter(runner, index)
            return {
                name.removeprefix('train/'): scalar.data[0].tolist()
                for name, scalar in hub.log_scalars.items()
            }

        return steps

    def test_a_term_that_comes_and_goes_has_the_mean_of_its_own_steps(self, run):
        rows = [dict(a=1.0, c=10.0), dict(a=2.0), dict(c=20.0, a=6.0)]
        assert run(rows) == {'a': [3], 'c': [15]}

    def test_steps_without_terms_are_no_zeros(self, run):
        assert run([dict(a=4.0), {}, {}]) == {'a': [4]}
        assert run([{}, {}, {}], start=3) == {'a': [4]}

    def test_sums_belong_to_a_run_that_is_gone_on_with(self, run):
        assert run([dict(a=1.0), dict(a=2.0)]) == {}
        assert run([dict(a=6.0)], start=2) == {'a': [3]}
        run([dict(a=1.0)], start=3)
        # It begins anew, whatever another run of that name has left.
        assert run([dict(a=4.0)] * 3)['a'] == [3, 4]

    def test_half_precision_is_added_up_in_full(self, run):
        rows = [dict(a=2048.0), dict(a=1.0), dict(a=1.0)]
        half = [dict(a=torch.tensor(row['a']).half()) for row in rows]
        assert run(half) == {'a': [pytest.approx(2050 / 3)]}


# --- No synchronisation --------------------------------------------------------


@pytest.mark.parametrize(
    'read',
    [
        pytest.param(float, id='float'),
        pytest.param(lambda x: [0, 1][x], id='index'),
        pytest.param(lambda x: max(x, torch.tensor(2)), id='max'),
    ],
)
def test_reading_is_noticed(read):
    value = torch.tensor(1)
    read(value)
    with no_reading(), pytest.raises(ReadError):
        read(value)


def test_nothing_is_read_between_two_lines(start, monkeypatch):
    """The feature loss only: the logit loss looks at labels on the CPU."""
    runner = start(
        FEATURE,
        logger=dict(interval=3),
        model__distiller__distill_losses__loss_feature__gamma='adaptive',
    )
    model = runner.model
    [hook] = (hook for hook in runner.hooks if isinstance(hook, DistillTermsHook))
    checked = []
    loss, after = model.loss, hook.after_train_iter

    def quiet():
        # Step 1 looks at the sign of the activations, once in a run.
        return not model.distiller.probing and runner.iter > 0

    def watched_loss(*args, **kwargs):
        if not quiet():
            return loss(*args, **kwargs)
        with no_reading():
            losses = loss(*args, **kwargs)
        checked.append('loss')
        return losses

    def watched_after(*args, **kwargs):
        if not quiet():
            return after(*args, **kwargs)
        with no_reading():
            after(*args, **kwargs)
        checked.append('hook')

    monkeypatch.setattr(model, 'loss', watched_loss)
    monkeypatch.setattr(hook, 'after_train_iter', watched_after)
    runner.train()
    # Lines after steps 3 and 8 of 10; the first step is left out.
    assert checked == ['loss', 'hook'] * 7


def test_the_balancer_reads_nothing(start, monkeypatch):
    runner = start(logger=dict(interval=3))
    distiller = runner.model.distiller
    forward, checked = distiller.balancer.forward, []

    def watched(losses):
        with no_reading():
            balanced = forward(losses)
        checked.append(len(losses))
        return balanced

    monkeypatch.setattr(distiller.balancer, 'forward', watched)
    runner.train()
    assert checked == [2] * 10


# --- Warnings ------------------------------------------------------------------


def warned(runner, monkeypatch):
    """Train; return the warnings about the loss with their steps."""
    said = []
    logger_warning = runner.logger.warning

    def keep(text, *args, **kwargs):
        if LOSS in str(text):
            said.append((runner.iter + 1, text))
        logger_warning(text, *args, **kwargs)

    monkeypatch.setattr(runner.logger, 'warning', keep)
    runner.train()
    return said


def test_a_collapsed_scorer_is_told_once(start, monkeypatch):
    runner = start(
        logger=dict(interval=1), scorer=dict(min_spread=1.0, patience=4)
    )  # no gates in (0, 1) have such a spread
    # The untrained teacher's feature also takes the balancer to its limit.
    [(step, text)] = [
        entry for entry in warned(runner, monkeypatch) if 'lambda' not in entry[1]
    ]
    assert step == 4
    spread = log_of(runner)[3]['feature/gate_spread']
    assert text.startswith(f'{LOSS}: The scoring network has collapsed')
    assert f'{spread:.3g} only' in text


# --- Other models --------------------------------------------------------------


@pytest.mark.parametrize('kind', ['plain', 'mmrazor'])
def test_other_models_train_with_the_hook_and_log_no_terms(tmp_path, make_runner, kind):
    if kind == 'plain':
        cfg, loss = digits_config('vanilla/resnet8_digits.py', 64), 'loss'
        assert cfg.default_hooks.terms.type == 'DistillTermsHook'
    else:
        cfg, loss = distill_config(tmp_path, images=64), 'distill.loss_cakd'
        cfg.model.distiller.type = 'mmrazor.ConfigurableDistiller'
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.pop('extract')
    runner = make_runner(cfg)
    runner.train()
    entries = log_of(runner)
    assert len(entries) == 4
    assert all(entry[loss] > 0 for entry in entries)
    assert not [name for entry in entries for name in entry if '/' in name]


# A distillation that stops

STOP = [dict(type='mmrazor.StopDistillHook', stop_epoch=1)]
WARM_UP = dict(type='DistillWarmupHook', epochs=4)


def is_distilled(entry):
    """Return the names of what distillation logs."""
    own = [f'{term.partition("/")[0]}/' for term in NAMES]
    return [name for name in entry if name.startswith(('distill.', *own))]


def test_a_stop_at_an_epoch_that_never_comes_is_refused(tmp_path, make_runner):
    cfg = distill_config(tmp_path, custom_hooks=STOP)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=10)
    runner = make_runner(cfg)
    match = r'`StopDistillHook\.stop_epoch` = 1: IterBasedTrainLoop counts no epochs'
    with pytest.raises(ValueError, match=match):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize('mode', ['immediate', 'deferred'])
def test_a_stopped_distillation_is_not_logged_any_more(start, mode):
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    runner = start(
        logger=dict(interval=2),
        custom_hooks=STOP,
        visualizer__vis_backends=backends,
        default_hooks__warmup=WARM_UP,
        default_hooks__runtime_info__mode=mode,
    )
    runner.train()
    before, after = log_of(runner)[:2], log_of(runner)[2:]
    assert [entry['iter'] for entry in before + after] == [2, 4, 7, 9]
    for entry in before:
        assert {'distill.loss_cakd', 'distill.loss_feature'} < {*is_distilled(entry)}
        assert entry['warmup'] == 0.25
        assert is_distilled(entry)
    for entry in after:
        assert is_distilled(entry) == []
        assert 'warmup' not in entry
        # Both are means over the steps since the stop.
        assert entry['loss'] == entry['student.loss'] > 0
    [file] = Path(runner.work_dir).rglob('events.out.*')
    events = EventAccumulator(str(file))
    events.Reload()
    steps = {
        tag: [event.step for event in events.Scalars(tag)]
        for tag in events.Tags()['scalars']
    }
    assert steps['loss'] == [2, 4, 7, 9]
    for tag in [*is_distilled(steps), 'warmup']:
        assert steps[tag] == [2, 4], tag
    history, cfg = read_history(Path(runner.work_dir))
    assert history.curve('cakd/bcd')[0] == [2 / STEPS, 4 / STEPS]
    figure = draw_terms(history, cfg, cfg.model.distiller.distill_losses)
    assert len(figure.axes) > 5


def test_the_means_of_a_resumed_run_go_back_to_the_last_line(start):
    """Lines follow steps 3 and 8, and the run goes on after step 7, in epoch 2."""
    checkpoints = dict(by_epoch=False, interval=1, max_keep_ckpts=-1)
    options = dict(logger=dict(interval=3), default_hooks__checkpoint=checkpoints)
    whole = start(**options)
    whole.train()
    expected = scalars(whole)
    assert list(expected) == [3, 8]
    shutil.rmtree(next(Path(whole.work_dir).glob('*/vis_data')))
    checkpoint = str(Path(whole.work_dir) / 'iter_7.pth')
    resumed = start(**options, resume=True, load_from=checkpoint)
    resumed.train()
    assert scalars(resumed) == {8: expected[8]}


def test_the_sums_of_another_loss_are_dropped_by_a_resumed_run(start):
    """It has the same name; its first line is of the steps since then."""
    name = 'dkd/dkd_r20_r8_digits.py'
    options = dict(logger=dict(interval=3), train_cfg__max_epochs=1)
    first = start(name, **options)
    first.train()  # Steps 4 and 5 are in no line.
    checkpoint = str(Path(first.work_dir) / 'epoch_1.pth')
    shutil.rmtree(next(Path(first.work_dir).glob('*/vis_data')))
    options |= dict(train_cfg__max_epochs=2, resume=True, load_from=checkpoint)
    other = dict(type='NKDLoss', _delete_=True)
    resumed = start(name, model__distiller__distill_losses__loss_dkd=other, **options)
    resumed.train()
    [line] = log_of(resumed)
    steps = resumed.watch.steps[:3]
    terms = {name for name in line if name.startswith('dkd/')}
    assert terms == steps[0].keys()
    for term in terms:
        assert line[term] == pytest.approx(mean([step[term] for step in steps]))


def scalars(runner):
    """Return the log by step, without times."""
    return {
        entry['iter']: {k: v for k, v in entry.items() if 'time' not in k}
        for entry in log_of(runner)
    }


def test_a_resumed_run_logs_what_the_whole_one_logs(start):
    """It goes on at the stop, or after it."""
    options = dict(logger=dict(interval=1), custom_hooks=STOP, train_cfg__max_epochs=3)
    whole = start(**options)
    whole.train()
    expected = scalars(whole)
    for epoch in (1, 2):
        for log in Path(whole.work_dir).glob('*/vis_data'):
            shutil.rmtree(log)
        checkpoint = str(Path(whole.work_dir) / f'epoch_{epoch}.pth')
        resumed = start(**options, resume=True, load_from=checkpoint)
        resumed.train()
        later = {k: v for k, v in expected.items() if k > epoch * STEPS}
        assert scalars(resumed) == later
        assert not any(map(is_distilled, later.values()))


def test_a_student_without_a_loss_after_the_stop_is_refused(start):
    runner = start(custom_hooks=STOP, model__calculate_student_loss=False)
    match = (
        '`model.calculate_student_loss` = False: StopDistillHook.stop_epoch=1 ends the '
        'distillation'
    )
    with pytest.raises(ValueError, match=match):
        runner.train()
    late = [dict(STOP[0], stop_epoch=2)]  # after the last epoch
    start(custom_hooks=late, model__calculate_student_loss=False).train()
