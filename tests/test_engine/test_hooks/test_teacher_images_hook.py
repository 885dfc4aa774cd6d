"""Channel order and size of the images are those that the teacher was trained on."""

import logging
import types

import pytest
import torch
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


def compare(run, before, own=False, size=None, seen=None, batch=None):
    """Compare a run with the text of the config that the teacher was trained with."""
    made = Normalisation([1.0], [2.0], run['data_preprocessor']['to_rgb'])
    text = Config(before).pretty_text
    view = TeacherView('key', made, seen or made, size, values_in(text), own)
    model = types.SimpleNamespace(teacher_views=[view])
    runner = types.SimpleNamespace(model=model, cfg=ConfigDict(run))
    hook = TeacherImagesHook()
    hook.before_train(runner)
    for index in range(2):
        hook.before_train_iter(runner, index, batch)


def batch_of(*sizes):
    return dict(inputs=[torch.zeros(3, *size) for size in sizes])


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


VIEWS = dict(type='MultiView', num_views=[1, 1], transforms=[[crop(160)]] * 2)
MMCLS = dict(data=dict(train=dict(pipeline=[dict(type='CenterCrop', crop_size=160)])))
SIZES = [
    (training(LOAD, crop(160)), (224, 224), '160 x 160.*224 x 224'),
    (training(LOAD, crop((240, 224), 'Resize')), (240, 224), '224 x 240.*240 x 224'),
    (
        training(
            crop(256, 'Resize'), dict(type='RandomCrop', crop_size=[224, 200]), LOAD
        ),
        (224, 224),
        '224 x 200.*224 x 224',
    ),
    (
        training(crop(32), dict(type='RandomErasing', scale=(1, 2))),
        (32, 32),
        None,
    ),
    (training(crop((256, -1), 'Resize')), (256, 300), None),
    (training(LOAD), (224, 224), None),
    (MMCLS, (224, 224), '160 x 160.*224 x 224'),
    (training(dict(type='mmcv.transforms.Resize', scale=8)), (9, 9), '8 x 8.*9 x 9'),
    (training(size=64, dataset='DecodedImages'), (32, 32), '64 x 64.*32 x 32'),
    (training(LOAD, VIEWS), (224, 224), '160 x 160.*224 x 224'),
]


@pytest.mark.parametrize('form', ['list', 'stacked', 'views'])
@pytest.mark.parametrize(('before', 'size', 'match'), SIZES)
def test_another_size_than_that_of_the_first_batch_is_warned_of(
    before, size, match, form, lines
):
    """The pipeline of the run need not resize: its files may have the size."""
    batch = batch_of(size, size)
    if form != 'list':
        batch['inputs'] = torch.stack(batch['inputs'])
    if form == 'views':
        batch['inputs'] = [batch['inputs']] * 2
    compare(training(LOAD), before, batch=batch)
    if match is None:
        assert lines == []
        return
    [(level, text)] = lines
    assert level == 'WARNING' and '`key.size` = None' in text
    before_, now = match.split('.*')
    assert before_ in text.split('sees')[0] and now in text.split('sees')[1]


def test_the_size_that_the_teachers_images_are_resized_to(lines):
    trained = training(LOAD, crop(32))
    compare(training(), trained, size=(32, 32), batch=batch_of((64, 64)))
    assert lines == []
    compare(training(), trained, size=(64, 64), batch=batch_of((32, 32)))
    assert len(lines) == 1


@pytest.mark.parametrize('batch', [None, {}, dict(inputs=[]), dict(inputs=[['text']])])
def test_a_batch_without_images_has_no_size(batch, lines):
    compare(training(), training(crop(32)), batch=batch)
    assert lines == []


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
