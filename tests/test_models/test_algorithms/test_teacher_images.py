"""The teacher sees what its own preprocessing would have made of the images."""

import copy
import itertools
import logging
import re

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from tiny import algorithm, digits_config, save_teacher
from torch import nn

from cakd_mm.models.algorithms import teacher_images
from cakd_mm.models.algorithms.teacher_images import (
    ImageMap,
    Normalisation,
    trained_normalisation,
)
from cakd_mm.utils.config_text import values_in
from cakd_mm.utils.net_config import net_config

SHARED = dict(mean=[120.0, 110.0, 100.0], std=[60.0, 61.0, 62.0], to_rgb=True)
OWN = dict(mean=[10.0, 20.0, 30.0], std=[7.0, 8.0, 9.0], to_rgb=False)
GRAY = dict(mean=[33.5], std=[78.9])


@pytest.fixture
def lines(monkeypatch):
    lines = []

    def print_log(text, logger=None, level=logging.INFO):
        lines.append((logging.getLevelName(level), text))

    monkeypatch.setattr(teacher_images, 'print_log', print_log)
    return lines


def config(folder, own, shared=None, trained=None, **options):
    """Return a config whose teacher's checkpoint may hold a config's text."""
    path = save_teacher(folder / 'teacher.pth')
    content = torch.load(path)
    if trained is not None:
        content['meta']['cfg'] = trained
    torch.nn.init.normal_(content['state_dict']['head.fc.weight'])
    torch.save(content, path)
    options['model__teacher_ckpt'] = str(path)
    cfg = digits_config('cakd/demo_digits.py', **options)
    cfg.data_preprocessor = dict(shared or SHARED, num_classes=10)
    if own is not None:
        cfg.model.teacher.data_preprocessor = dict(own)
    return cfg


def images_of(count=5, size=16):
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def seen_by_teacher(model, images, dtype=torch.float32, training=False):
    """Return what goes into the teacher's first layer in a step."""
    seen = []
    net = model.teacher
    hook = net.backbone.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    samples = [DataSample().set_gt_label(i % 10) for i in range(len(images))]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), training)
    model.to(dtype)(data['inputs'].to(dtype), data['data_samples'], mode='loss')
    hook.remove()
    return seen[0], data['inputs']


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


def expected(images, own, size=None, dtype=torch.float32):
    made = ClsDataPreprocessor(**own)(dict(inputs=images))['inputs']
    if dtype == torch.float64:
        mean, std = (
            torch.tensor(own[k]).double().view(-1, 1, 1) for k in ('mean', 'std')
        )
        pixels = images.flip(1) if own.get('to_rgb') else images
        made = (pixels.double() - mean) / std
    if size is not None:
        made = F.interpolate(made, size, mode='bilinear', antialias=True)
    return made


@pytest.mark.parametrize('size', [None, (20, 12), (9, 9)])
def test_it_is_as_if_the_images_were_preprocessed_apart(size):
    net, pixels = nn.Module(), images_of()
    settings = SHARED, OWN, GRAY, dict(to_rgb=True)
    for shared, own in itertools.product(settings, settings[:3]):
        made = ClsDataPreprocessor(**shared)
        net.data_preprocessor = ClsDataPreprocessor(**own)
        view = teacher_images.view_of(net, made, size, {}, 'key')
        mapped = teacher_images.build_image_map(net, made, view) or nn.Identity()
        found = mapped(made(dict(inputs=pixels))['inputs'])
        close(found, expected(pixels, own, size))


@pytest.mark.parametrize('size', [None, 9, [20, 12]])
def test_the_teacher_of_a_step_sees_the_mapped_images(tmp_path, size):
    model = algorithm(config(tmp_path, dict(OWN, size=size)))
    found, _ = seen_by_teacher(model, images_of())
    close(found, expected(images_of(), OWN, size))


def test_in_double_precision_it_is_exact(tmp_path):
    model = algorithm(config(tmp_path, dict(OWN, size=20)))
    pixels = images_of()
    made = expected(pixels, SHARED, dtype=torch.float64)
    found = model.teacher_image_map(made)
    wanted = expected(pixels, OWN, 20, torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)


def test_the_size_alone_leaves_the_normalisation(tmp_path):
    found, _ = seen_by_teacher(algorithm(config(tmp_path, dict(size=8))), images_of())
    torch.testing.assert_close(found, expected(images_of(), SHARED, 8))


@pytest.mark.parametrize('own', [None, SHARED, dict(num_classes=10)])
def test_the_same_preprocessing_costs_nothing(tmp_path, own, lines):
    model = algorithm(config(tmp_path, own))
    found, shared = seen_by_teacher(model, images_of())
    assert found.data_ptr() == shared.data_ptr()
    assert lines == []


def test_mixed_images_are_mixed_for_the_teacher_too(tmp_path):
    cfg = config(tmp_path, OWN)
    cfg.data_preprocessor.batch_augments = dict(augments=dict(type='Mixup', alpha=0.8))
    model = algorithm(cfg)
    torch.manual_seed(2)
    found, mixed = seen_by_teacher(model, images_of(), training=True)
    plain = expected(images_of(), SHARED)
    assert not torch.allclose(mixed, plain)
    std, mean = (torch.tensor(SHARED[k]).view(-1, 1, 1) for k in ('std', 'mean'))
    raw = (mixed * std + mean).flip(1)  # mixed pixels before any normalisation
    own_std, own_mean = (torch.tensor(OWN[k]).view(-1, 1, 1) for k in ('std', 'mean'))
    close(found, (raw - own_mean) / own_std)


def test_the_fast_teacher_and_autocast_see_it_too(tmp_path):
    losses = []
    for runtime, amp in ((None, False), (dict(compile=False), False), (None, True)):
        model = algorithm(config(tmp_path, OWN, model__teacher_runtime=runtime))
        with torch.autocast('cpu', torch.bfloat16, enabled=amp):
            samples = [DataSample().set_gt_label(i) for i in range(5)]
            data = dict(inputs=images_of(), data_samples=samples)
            data = model.data_preprocessor(data, True)
            losses.append(model(**data, mode='loss')['distill.loss_cakd'].float())
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0], rtol=0.1, atol=0)


def test_each_teacher_of_a_list_has_its_own(tmp_path):
    cfg = config(tmp_path, None)
    net, ckpt = cfg.model.pop('teacher'), cfg.model.pop('teacher_ckpt')
    cfg.model.pop('teacher_from')
    cfg.model.teacher = [
        dict(net=dict(copy.deepcopy(net), data_preprocessor=own), ckpt=ckpt)
        for own in (OWN, SHARED, dict(GRAY, size=12))
    ]
    cfg.model.teacher_average = 'logits'
    model = algorithm(cfg)
    made = expected(images_of(), SHARED)
    nets = model.teacher.teachers
    wanted = [
        nets[name](expected(images_of(), own, size), mode='tensor')
        for name, own, size in (('0', OWN, None), ('1', SHARED, None), ('2', GRAY, 12))
    ]
    torch.testing.assert_close(
        model.teacher(made), sum(wanted) / 3, rtol=1e-4, atol=1e-4
    )
    assert list(model.teacher.image_maps) == ['0', '2']


def test_a_net_from_another_config_brings_its_own(tmp_path, lines):
    path = tmp_path / 'net.py'
    net = net_config(config(tmp_path, None).model.teacher, 'x')
    path.write_text(f'data_preprocessor = {OWN}\nmodel = {net.to_dict()}\n')
    cfg = config(tmp_path, None)
    cfg.model.teacher = dict(cfg_path=str(path), _delete_=True)
    found, _ = seen_by_teacher(algorithm(cfg), images_of())
    close(found, expected(images_of(), OWN))
    [(level, text)] = lines
    assert level == 'INFO' and 'mean=[10.0, 20.0, 30.0]' in text


class OwnPreprocessor(ClsDataPreprocessor):
    """Does something else."""

    def forward(self, data, training=False):
        return super().forward(data, training)


class TestWhatCannotBeMapped:
    @pytest.mark.parametrize(
        ('own', 'shared', 'match'),
        [
            (
                dict(OWN, pad_size_divisor=32),
                {},
                r'teacher\.data_prep.*pad_size',
            ),
            (OWN, dict(pad_size_divisor=32), r'`data_preprocessor\.pad_size_divisor'),
            (OWN, dict(type='OwnPreprocessor'), r'`data_preprocessor\.type.*OwnPre'),
            (
                dict(OWN, type='OwnPreprocessor'),
                {},
                r'teacher\.data_preprocessor\.type',
            ),
            (
                dict(to_rgb=True),
                dict(to_rgb=False),
                r'to_rgb` = True.*mean',
            ),
            (dict(OWN, size=0), {}, r'data_preprocessor\.size` = 0'),
            (dict(OWN, size=[1, 2, 3]), {}, r'data_preprocessor\.size'),
        ],
    )
    def test_it_is_named(self, tmp_path, own, shared, match):
        MODELS.register_module(module=OwnPreprocessor, force=True)
        try:
            with pytest.raises(ValueError, match=match):
                algorithm(config(tmp_path, own, dict(SHARED, **shared)))
        finally:
            MODELS.module_dict.pop('OwnPreprocessor')


def text_of(preprocessor, place='top'):
    """Return a config's text as a checkpoint holds it."""
    words = ', '.join(f'{name}={value!r}' for name, value in preprocessor.items())
    part = f'data_preprocessor=dict({words})'
    inner = dict(model=part, student=f'architecture=dict({part})').get(place, '')
    top = f'{part}\n' if place == 'top' else ''
    return f"{top}model = dict(type='ImageClassifier', {inner})\n"


class TestWhatTheCheckpointSays:
    """The config in the teacher's checkpoint says what the teacher was trained with."""

    @pytest.mark.parametrize('place', ['top', 'model', 'student'])
    def test_another_normalisation_is_refused_with_what_works(self, tmp_path, place):
        trained = text_of(dict(OWN, num_classes=10), place)
        with pytest.raises(ValueError) as caught:
            algorithm(config(tmp_path, None, trained=trained))
        text = str(caught.value)
        assert text.startswith('`model.teacher.data_preprocessor` = None')
        assert (
            'mean=[10.0, 20.0, 30.0]' in text and 'mean=[120.0, 110.0, 100.0]' in text
        )
        # The channels of the training, whatever the batch has.
        assert f'dict(mean={OWN["mean"]}, std={OWN["std"]}, to_rgb=False)' in text
        assert 'to_rgb if images are loaded as there;' in text

    @pytest.mark.parametrize('way', ['proposed', 'as it is'])
    def test_what_is_proposed_works(self, tmp_path, lines, way):
        trained = text_of(OWN) + "train_dataloader = dict(dataset=dict(type='CIFAR10'))"
        with pytest.raises(ValueError, match='as there, CIFAR10;') as caught:
            algorithm(config(tmp_path, None, trained=trained))
        proposals = re.findall(r'data_preprocessor=(dict\(.*?\))', str(caught.value))
        own = eval(proposals[way == 'as it is'])
        lines.clear()
        model = algorithm(config(tmp_path, own, trained=trained))
        found, _ = seen_by_teacher(model, images_of())
        close(found, expected(images_of(), OWN if way == 'proposed' else SHARED))
        levels = [level for level, _ in lines]
        assert levels == ['INFO' if way == 'proposed' else 'WARNING']

    def test_channels_are_not_spoken_of_where_they_agree(self, tmp_path):
        trained = text_of(dict(OWN, to_rgb=True))
        with pytest.raises(ValueError) as caught:
            algorithm(config(tmp_path, None, trained=trained))
        assert 'loaded' not in str(caught.value)

    def test_what_the_user_writes_is_believed_and_warned_of(self, tmp_path, lines):
        algorithm(config(tmp_path, SHARED, trained=text_of(OWN)))
        [(level, text)] = lines
        assert level == 'WARNING' and 'mean=[10.0, 20.0, 30.0]' in text

    @pytest.mark.parametrize(
        'trained',
        [
            *(None, '', 'no config at all (', 7, 'import os\nos.abort()\n'),
            *('model = make()\n', "model = dict(architecture=dict(cfg_path='x.py'))\n"),
            'mean = [1.0]\n' + text_of({}).replace('dict()', 'dict(mean=mean)'),
            text_of(SHARED),
            text_of(dict(SHARED, mean=[120.001, 110.0, 100.0])),
            text_of(dict(SHARED, to_rgb=False)),  # images may be loaded otherwise
            "train_pipeline = [dict(type='Normalize', mean=[0.0], std=[1.0])]\n"
            "model = dict(type='ImageClassifier')\n",
        ],
    )
    def test_the_same_or_nothing_is_said(self, tmp_path, lines, trained):
        algorithm(config(tmp_path, None, trained=trained))
        assert lines == []

    @pytest.mark.parametrize('std', [[1.0], [1.0, 2.0], [0.0] * 3])
    def test_statistics_that_do_not_fit_are_other_ones(self, tmp_path, std):
        trained = text_of(dict(OWN, std=std))
        with pytest.raises(ValueError, match=r'teacher\.data_preprocessor'):
            algorithm(config(tmp_path, None, trained=trained))

    def test_images_that_one_run_does_not_normalise_are_warned_of(
        self, tmp_path, lines
    ):
        algorithm(config(tmp_path, None, trained=text_of({})))
        algorithm(config(tmp_path, None, dict(to_rgb=True), text_of(OWN)))
        assert [level for level, _ in lines] == ['WARNING', 'WARNING']

    def test_a_pipeline_may_be_the_reason(self, tmp_path, lines):
        algorithm(config(tmp_path, None, dict(to_rgb=True), text_of(OWN)))
        [(_, text)] = lines
        assert 'If no pipeline normalises, write' in text


STEP = dict(type='Normalize', mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])
MODEL = dict(type='ImageClassifier')
PLAIN = Normalisation([0.0], [1.0], False, False)


def run_of(*steps, wrap=None, prefix='train_dataloader', **more):
    data = dict(type='CustomDataset', pipeline=list(steps))
    data = dict(type='RepeatDataset', dataset=data) if wrap else data
    place = (
        dict(data=dict(train=data))
        if prefix == 'data'
        else dict(train_dataloader=dict(dataset=data))
    )
    return dict(model=MODEL, **place, **more)


def trained_with(run):
    text = ''.join(f'{name} = {value!r}\n' for name, value in run.items())
    return trained_normalisation(values_in(text))


@pytest.mark.parametrize('wrap', [False, True])
@pytest.mark.parametrize('prefix', ['train_dataloader', 'data'])
def test_the_training_pipeline_may_normalise(wrap, prefix, lines):
    """The pipelines of mmcls 0.x do."""
    found = trained_with(run_of(STEP, wrap=wrap, prefix=prefix))
    assert found == Normalisation([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], True)
    found = trained_with(run_of(dict(STEP, to_rgb=False), wrap=wrap, prefix=prefix))
    assert found == Normalisation([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], False)
    # Another pipeline, and other types, have no say.
    more = dict(val_dataloader=dict(dataset=dict(pipeline=[STEP])))
    found = trained_with(
        run_of(wrap=wrap, prefix=prefix, data_preprocessor=OWN, **more)
    )
    assert found == Normalisation(OWN['mean'], OWN['std'], False)
    assert lines == []


def test_a_run_that_normalises_twice_is_not_compared(lines):
    assert trained_with(run_of(STEP, data_preprocessor=OWN)) is None
    [(level, text)] = lines
    assert (
        level == 'WARNING' and 'both in data_preprocessor and in the pipeline' in text
    )


@pytest.mark.parametrize(
    'run',
    [
        run_of(STEP, STEP),
        run_of(dict(type='RandomApply', transforms=[STEP])),
        run_of(dict(STEP, type='torchvision/Normalize')),
        run_of(STEP, data_preprocessor=dict(to_rgb=True)),
        run_of(dict(STEP, mean=None)),
    ],
)
def test_what_a_pipeline_does_otherwise_is_unknown(run, lines):
    assert trained_with(run) is None
    assert lines == []


def test_a_pipeline_that_only_code_tells_is_unknown():
    text = 'train_dataloader = dict(dataset=dict(pipeline=steps))\n' + text_of(OWN)
    assert trained_normalisation(values_in(text)) is None
    text = 'train_dataloader = dict(dataset=data)\n' + text_of(OWN)
    assert trained_normalisation(values_in(text)) == Normalisation(
        OWN['mean'], OWN['std'], False
    )


def test_a_run_without_any_normalisation():
    assert trained_with(run_of(dict(type='PackInputs'))) == PLAIN


@pytest.mark.parametrize(
    ('mean', 'std', 'same'),
    [
        ([1.0, 2.0], [4.0, 5.0], True),
        ([1.0, 2.0], [4.0, 5.1], False),
        ([1.1, 2.0], [4.0, 5.0], False),
        ([1.0001, 2.0], [4.0001, 5.0], True),
    ],
)
def test_mean_and_deviation_are_compared(mean, std, same):
    ours = Normalisation([1.0, 2.0], [4.0, 5.0], True)
    assert ours.agrees(Normalisation(mean, std, False)) is same


def test_half_precision_is_mapped_in_single():
    """Pixels of a large mean would lose their digits."""
    made = Normalisation([0.0], [1.0], False)
    wanted = Normalisation([1000.0], [0.1], False)
    images = torch.tensor([1001.0, 1003.0]).view(1, 1, 1, 2)
    for dtype in (torch.float16, torch.bfloat16):
        mapped = ImageMap(made, wanted)(images.to(dtype))
        assert mapped.dtype == dtype
        exact = (images.to(dtype).double() - 1000) / 0.1
        torch.testing.assert_close(mapped, exact.to(dtype), rtol=0.01, atol=0.0)


@pytest.mark.parametrize(('channels', 'order'), [(3, [2, 1, 0]), (1, [0]), (2, [0, 1])])
def test_three_channels_alone_are_swapped(channels, order):
    made, wanted = (Normalisation([0.0], [1.0], flag) for flag in (False, True))
    images = torch.arange(channels * 4.0).view(1, channels, 2, 2)
    assert torch.equal(ImageMap(made, wanted)(images), images[:, order])
