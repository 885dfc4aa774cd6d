"""The teacher sees what its own preprocessing would have made of the images."""

import copy
import itertools
import logging

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from tiny import algorithm, digits_config, save_teacher
from torch import nn

from cakd_mm.models.algorithms import teacher_images
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
        own = dict(OWN, to_rgb=True)
        algorithm(config(tmp_path, own, trained=trained))
        assert f'dict(mean={own["mean"]}, std={own["std"]}, to_rgb=True)' in text

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
