"""Channel order and size of the images are those that the teacher was trained on."""

import logging
import types

import pytest
from mmengine.config import Config, ConfigDict

from cakd_mm.engine.hooks import TeacherImagesHook, teacher_images_hook
from cakd_mm.models.algorithms.teacher_images import Normalisation, TeacherView
from cakd_mm.utils.config_text import values_in

LOAD = dict(type='LoadImageFromFile')


def training(*steps, to_rgb=True, dataset='CustomDataset', wrap=None, **options):
    """Return the config of a run."""
    data = dict(type=dataset, pipeline=[*steps, dict(type='PackInputs')], **options)
    if wrap is not None:
        data = wrap(data)
    return dict(
        model=dict(type='ImageClassifier'),
        data_preprocessor=dict(mean=[1.0], std=[2.0], to_rgb=to_rgb),
        train_dataloader=dict(dataset=data),
    )


def crop(size, kind='RandomResizedCrop'):
    return dict(type=kind, scale=size)


@pytest.fixture
def lines(monkeypatch):
    lines = []

    def print_log(text, logger=None, level=logging.INFO):
        lines.append((logging.getLevelName(level), text))

    monkeypatch.setattr(teacher_images_hook, 'print_log', print_log)
    return lines


def compare(run, before, own=False, size=None, seen=None):
    """Compare a run with the text of the config that the teacher was trained with."""
    made = Normalisation([1.0], [2.0], run['data_preprocessor']['to_rgb'])
    text = Config(before).pretty_text
    view = TeacherView('key', made, seen or made, size, values_in(text), own)
    model = types.SimpleNamespace(teacher_views=[view])
    runner = types.SimpleNamespace(model=model, cfg=ConfigDict(run))
    TeacherImagesHook().before_train(runner)


@pytest.mark.parametrize('wrapped', [False, True])
def test_another_channel_order_is_refused(wrapped, lines):
    wrap = (lambda d: dict(type='RepeatDataset', dataset=d)) if wrapped else None
    run = training(LOAD, to_rgb=False, wrap=wrap)
    match = (
        r'`key\.to_rgb` = False: .*to_rgb=True.*LoadImageFromFile.*to_rgb=True\), to'
    )
    with pytest.raises(ValueError, match=match):
        compare(run, training(LOAD, dataset='ImageNet'))
    compare(run, training(LOAD, dataset='ImageNet'), own=True)
    assert [level for level, _ in lines] == ['WARNING']


def test_what_is_loaded_otherwise_is_not_compared(lines):
    compare(training(to_rgb=False, dataset='DecodedImages'), training(LOAD))
    compare(training(to_rgb=False, dataset='A'), training(dataset='B'))
    with pytest.raises(ValueError, match='to_rgb'):
        compare(training(to_rgb=False, dataset='A'), training(dataset='A'))
    assert lines == []


SIZES = [
    ([LOAD, crop(224)], [LOAD, crop(160)], '160 x 160.*224 x 224'),
    ([LOAD, crop(224)], [crop((240, 224), 'Resize')], '224 x 240.*224 x 224'),
    (
        [crop(256, 'ResizeEdge'), dict(type='CenterCrop', crop_size=224)],
        [crop(256, 'Resize'), dict(type='RandomCrop', crop_size=[224, 200])],
        '224 x 200.*224 x 224',
    ),
    ([LOAD, crop(32), dict(type='RandomErasing', scale=(1, 2))], [crop(32)], None),
    ([LOAD, crop(256, 'ResizeEdge')], [LOAD, crop(224)], None),
    ([LOAD], [LOAD, crop(224)], None),
    ([dict(type='mmcv.transforms.Resize', scale=9)], [crop(8, 'Resize')], '8.*9 x 9'),
]


@pytest.mark.parametrize(('run', 'before', 'match'), SIZES)
def test_another_size_is_warned_of(run, before, match, lines):
    compare(training(*run), training(*before))
    if match is None:
        assert lines == []
        return
    [(level, text)] = lines
    assert level == 'WARNING' and '`key.size` = None' in text
    before_, now = match.split('.*')
    assert before_ in text.split('sees')[0] and now in text.split('sees')[1]


def test_a_size_of_a_data_set_and_one_of_the_teachers_own(lines):
    run = training(size=64, dataset='DecodedImages')
    compare(run, training(LOAD, crop(32)), size=(32, 32))
    assert lines == []
    compare(run, training(LOAD, crop(32)))
    assert len(lines) == 1


def test_a_batch_that_the_pipeline_normalises_is_not_mapped():
    run = training(LOAD, dict(type='Normalize', mean=[3.0], std=[1.0]))
    seen = Normalisation([3.0], [1.0], True)
    with pytest.raises(ValueError, match=r'pipeline` = .*Normalize'):
        compare(run, {}, own=True, seen=seen)
    compare(run, {}, own=True)


def test_types_that_are_classes(lines):
    kind = type('LoadImageFromFile', (), {})
    run = training(dict(type=kind), to_rgb=False)
    with pytest.raises(ValueError, match='to_rgb'):
        compare(run, training(dict(type='mmcv.transforms.LoadImageFromFile')))


def test_a_model_without_a_teacher():
    runner = types.SimpleNamespace(model=types.SimpleNamespace(), cfg=Config())
    TeacherImagesHook().before_train(runner)
