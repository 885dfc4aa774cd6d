"""What trackers get of a run, read back by their own means."""

import json
import sys
import uuid
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from pages import blocks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import digits_config, save_teacher
from tiny_runs import feature_config

from cakd_mm.visualization import trackers_hook
from cakd_mm.visualization.trackers import TrackedRun, WandbTracker
from cakd_mm.visualization.trackers_hook import TrackersHook

PICTURES = ['clusters.png', 'images.png', 'terms.png']


@pytest.fixture(scope='module')
def tracked(tmp_path_factory):
    """Train a tiny run, and resume it for one epoch more; return the last runner."""
    folder = tmp_path_factory.mktemp('tracked')
    config = feature_config(folder)
    teacher = save_teacher(folder / 'teacher.pth')
    to = ['tensorboard', 'tensorboard']
    to += ['mlflow'] if find_spec('mlflow') else []
    for epochs in (1, 2):
        cfg = digits_config(
            config,
            32,
            epochs,
            model__teacher_ckpt=str(teacher),
            val_dataloader__dataset__indices=40,
            default_hooks__trackers__to=to,
            default_hooks__trackers__pictures=epochs == 2,
            default_hooks__trackers__mlflow=dict(
                tracking_uri=uri_in(folder), artifact_location=str(folder / 'artifacts')
            ),
            resume=epochs == 2,
            launcher='none',
            work_dir=str(folder / 'a run'),
            experiment_name=uuid.uuid4().hex,
        )
        runner = Runner.from_cfg(cfg)
        runner.train()
    return runner


def uri_in(folder):
    return f'sqlite:///{folder}/runs.db'


def logged(runner):
    """Return step and value of a term, and epoch and value of the score."""
    terms, scores = {}, {}
    for file in sorted(Path(runner.work_dir).glob('*/vis_data/scalars.json')):
        for line in map(json.loads, file.open()):
            if 'feature/wcd' in line:
                terms[line['step']] = line['feature/wcd']
            if 'accuracy/top1' in line:
                scores[line['step']] = line['accuracy/top1']
    return terms, scores


def test_tensorboard_goes_on_in_the_same_curves(tracked):
    assert [*tracked.visualizer._vis_backends] == ['LocalVisBackend']
    events = EventAccumulator(str(Path(tracked.work_dir, 'tensorboard')))
    events.Reload()
    found = [
        {event.step: event.value for event in events.Scalars(tag)}
        for tag in ('feature/wcd', 'accuracy/top1')
    ]
    assert [sorted(curve) for curve in found] == [[1, 2], [1, 2]]
    for curve, expected in zip(found, logged(tracked), strict=True):
        assert curve == pytest.approx(expected, rel=1e-6)
    assert sorted(events.Tags()['images']) == PICTURES
    for name in PICTURES:
        [image] = events.Images(name)
        assert image.step == 2
        assert min(image.width, image.height) > 300
    text = events.Tensors('config/text_summary')[-1].tensor_proto.string_val[0].decode()
    code = text.removeprefix('```python\n').removesuffix('\n```')
    assert Config.fromstring(code, '.py').train_cfg.max_epochs == 2


def test_mlflow_goes_on_in_the_same_run(tracked):
    pytest.importorskip('mlflow', reason='mlflow is heavy: pip install mlflow')
    from mlflow import MlflowClient

    client = MlflowClient(uri_in(Path(tracked.work_dir).parent))
    [run] = client.search_runs([client.get_experiment_by_name('cakd_mm').experiment_id])
    assert (run.info.run_name, run.info.status) == ('a run', 'FINISHED')
    names = ('feature/wcd', 'accuracy/top1')
    for name, expected in zip(names, logged(tracked), strict=True):
        history = client.get_metric_history(run.info.run_id, name)
        assert {one.step: one.value for one in history} == pytest.approx(expected)
    assert run.data.params['model.architecture.backbone.depth'] == '8'
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {*PICTURES, 'config.py', 'student.py'} <= artifacts


def test_wandb_goes_on_in_the_same_run(monkeypatch, tmp_path):
    """By a stand-in, because nobody reads W&B's files but its server."""
    calls = {}
    stand_in = SimpleNamespace(
        init=lambda **arguments: calls.update(arguments),
        define_metric=lambda **metric: calls.setdefault('axes', []).append(metric),
        config=SimpleNamespace(update=lambda values, **_: calls.update(config=values)),
        run=SimpleNamespace(id='b'),
        log=lambda values, **_: calls.update(line=values),
        finish=lambda: calls.update(ended=True),
    )
    monkeypatch.setitem(sys.modules, 'wandb', stand_in)
    monkeypatch.setenv('WANDB_PROJECT', 'mine')
    first = WandbTracker(TrackedRun(tmp_path / 'x'), {})
    assert first.number == 'b'
    assert (calls['name'], calls['project'], calls['dir']) == (
        'x',
        'mine',
        str(tmp_path / 'x'),
    )
    assert 'id' not in calls
    second = WandbTracker(TrackedRun(tmp_path / 'x', first.number), dict(project='b'))
    second.add_config(Config(dict(a=1)))
    second.add_scalars(dict(loss=1.0, iter=7), step=7)
    second.close()
    assert (calls['id'], calls['resume'], calls['project']) == ('b', 'allow', 'b')
    assert calls['config'] == dict(a=1)
    assert calls['line'] == dict(loss=1.0, iter=7)
    assert dict(name='*', step_metric='iter') in calls['axes']
    assert calls['ended']


def test_what_the_page_shows():
    [page] = blocks('docs/guides/visualizers.md')
    arguments = dict(Config.fromstring(page, '.py').default_hooks.trackers)
    assert arguments.pop('type') == 'TrackersHook'
    assert [*TrackersHook(**arguments).settings] == ['tensorboard', 'mlflow']


def test_the_first_rank_alone_writes(monkeypatch):
    monkeypatch.setattr(trackers_hook, 'is_main_process', lambda: False)
    monkeypatch.setattr(trackers_hook, 'find_spec', lambda _: None)
    hook = TrackersHook(to='tensorboard')
    hook.before_train(SimpleNamespace())  # It would look for the work dir.
    assert hook.trackers == {}


def test_a_picture_that_fails_does_not_fail_the_run(monkeypatch):
    def fail(*_):
        raise OSError('no room')

    sent, warned = [], []
    monkeypatch.setattr(trackers_hook, '_of_channels', fail)
    monkeypatch.setattr(trackers_hook, '_of_terms', lambda *_: [('terms.png', 'x')])
    hook = TrackersHook(to='tensorboard')
    hook.trackers = dict(a=SimpleNamespace(add_image=lambda *given: sent.append(given)))
    logger = SimpleNamespace(warning=warned.append)
    model = SimpleNamespace(distiller=None)
    hook.after_train(SimpleNamespace(model=model, logger=logger, iter=3))
    assert warned == ["No picture for the trackers: OSError('no room')"]
    assert sent == [('terms.png', 'x', 3)]


@pytest.mark.parametrize(
    ('arguments', 'error', 'words'),
    [
        (dict(to='tensorbord'), ValueError, ["= 'tensorbord'", "Write 'tensorboard'"]),
        (dict(to=['tensorboard', 'comet']), ValueError, ["no tracker 'comet'"]),
        (
            dict(to='mlflow', mlflow=dict(tracking_url='x')),
            TypeError,
            ['`default_hooks.trackers.mlflow.tracking_url`', "'tracking_uri'"],
        ),
    ],
)
def test_mistakes(monkeypatch, arguments, error, words):
    installed = SimpleNamespace(origin='a file')
    monkeypatch.setattr(trackers_hook, 'find_spec', lambda _: installed)
    with pytest.raises(error) as caught:
        TrackersHook(**arguments).before_train(None)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize('spec', [None, SimpleNamespace(origin=None)])
def test_a_missing_package(monkeypatch, spec):
    """A folder that W&B has made is no package."""
    monkeypatch.setattr(trackers_hook, 'find_spec', lambda _: spec)
    hook = TrackersHook(to=['wandb'])  # A run that is only tested does not need it.
    with pytest.raises(ImportError, match=r'trackers\.to.*Run pip install wandb'):
        hook.before_train(None)
    TrackersHook().before_train(None)
