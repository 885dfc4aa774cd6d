"""The teacher stays what its checkpoint says, whatever happens around it."""

import copy
import hashlib
import logging
import math
import re

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from tiny import build, digits_config, distill_config, save_teacher

from cakd_mm.models.algorithms import FrozenTeacherDistill
from cakd_mm.models.algorithms import teacher as teacher_module

RANDOM = {'model__teacher_ckpt': None, 'model__allow_random_teacher': True}


def build_algorithm(cfg):
    model = copy.deepcopy(cfg.model)
    model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(model)


def batch(n=4, classes=10, size=16):
    samples = [DataSample().set_gt_label(i % classes) for i in range(n)]
    images = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)
    return {'inputs': images, 'data_samples': samples}


def losses_of(model, n=4):
    return model.train()(**model.data_preprocessor(batch(n), True), mode='loss')


def teacher_weights(model):
    return {k: v.clone() for k, v in model.teacher.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_init_weights_reaches_the_student_only(tmp_path):
    cfg = distill_config(tmp_path)
    # An init_cfg of the whole algorithm reaches every layer of every child.
    cfg.model.init_cfg = dict(type='Constant', layer='Conv2d', val=0.25)
    model = build_algorithm(cfg)
    student = model.student.backbone.conv1.weight.clone()
    model.init_weights()
    stored = torch.load(tmp_path / 'teacher.pth', weights_only=False)['state_dict']
    assert_same(teacher_weights(model), stored)
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert not torch.equal(model.student.backbone.conv1.weight, student)
    assert 'teacher' in dict(model.named_children())


def test_train_mode_leaves_the_whole_teacher_in_eval(tmp_path):
    cfg = distill_config(tmp_path, **RANDOM)
    cfg.model.teacher.head = dict(
        type='StackedLinearClsHead',
        num_classes=10,
        in_channels=64,
        mid_channels=[8],
        dropout_rate=0.5,
    )
    model = build_algorithm(cfg).train()
    assert not any(module.training for module in model.teacher.modules())
    assert all(module.training for module in model.student.modules())
    kinds = {type(module).__name__ for module in model.teacher.modules()}
    assert 'Dropout' in kinds  # otherwise this test proves nothing of dropout


def test_the_students_own_loss_is_weighted_and_nothing_else(tmp_path):
    found = {}
    data = batch()
    for weight in (1.0, 0.1):
        cfg = distill_config(tmp_path, model__student_loss_weight=weight)
        cfg.model.architecture.head.cal_acc = True
        torch.manual_seed(0)
        model = build_algorithm(cfg).train()
        inputs = model.data_preprocessor(copy.deepcopy(data), True)
        found[weight] = model(**inputs, mode='loss')
    whole, part = found[1.0], found[0.1]
    assert part.keys() == whole.keys() >= {'student.loss', 'student.accuracy_top-1'}
    assert part['student.loss'].item() == pytest.approx(
        0.1 * whole['student.loss'].item(), rel=1e-6
    )
    for name in whole.keys() - {'student.loss'}:
        torch.testing.assert_close(part[name], whole[name], rtol=0, atol=0)


def test_a_step_with_the_teacher_in_eval(tmp_path):
    """The losses are those of the recorded logits; the teacher computes no loss."""
    model = build_algorithm(distill_config(tmp_path)).train()
    calls = []
    model.teacher.head.loss_module.register_forward_hook(lambda *_: calls.append(1))
    data = model.data_preprocessor(batch(6), True)
    before = teacher_weights(model)
    state = copy.deepcopy(model.student.state_dict())
    losses = model(**data, mode='loss')
    assert not calls
    assert_same(teacher_weights(model), before)  # no running statistics moved
    assert set(losses) == {'student.loss', 'distill.loss_cakd'}
    ranges = model.recorded_ranges()
    recorded = model.distiller.teacher_recorders.get_recorder('logits')
    recorded = recorded.get_record_data()

    model.student.load_state_dict(state)
    student = model.student(data['inputs'], mode='tensor')
    teacher = model.teacher(data['inputs'], mode='tensor')
    assert torch.equal(recorded, teacher)
    labels = torch.cat([s.gt_label for s in data['data_samples']])
    loss = model.distiller.distill_losses['loss_cakd']
    torch.testing.assert_close(
        losses['distill.loss_cakd'], loss(student, teacher, labels)
    )
    torch.testing.assert_close(
        losses['student.loss'], torch.nn.functional.cross_entropy(student, labels)
    )
    assert set(ranges) == {'student.logits', 'teacher.logits'}
    expected = torch.stack([student.min(), student.max()])
    torch.testing.assert_close(torch.stack(ranges['student.logits']), expected)


def test_parts_of_the_losses_can_be_switched_off(tmp_path):
    cfg = distill_config(tmp_path, model__calculate_student_loss=False)
    assert set(losses_of(build_algorithm(cfg))) == {'distill.loss_cakd'}
    cfg = distill_config(tmp_path, model__student_trainable=False)
    model = build_algorithm(cfg)
    assert not losses_of(model)['student.loss'].requires_grad
    model.distillation_stopped = True
    assert set(losses_of(model)) == {'student.loss'}


def test_a_random_teacher_is_initialised_by_its_own_config(tmp_path):
    head = build_algorithm(distill_config(tmp_path, **RANDOM)).teacher.head.fc
    # mmpretrain's head asks for a normal distribution of 0.01 and a bias of 0;
    # torch would leave a bias and a spread of 0.07.
    assert float(head.bias.abs().max()) == 0
    assert float(head.weight.std()) == pytest.approx(0.01, rel=0.2)


def test_prediction_is_the_students(tmp_path):
    model = build_algorithm(distill_config(tmp_path)).eval()
    data = batch(5)
    with torch.no_grad():
        predictions = model.val_step(copy.deepcopy(data))
        images = model.data_preprocessor(data, False)['inputs']
        expected = model.student(images, mode='tensor').softmax(1)
    assert isinstance(predictions[0], BaseDataElement)
    scores = torch.stack([p.pred_score for p in predictions])
    torch.testing.assert_close(scores, expected)


class TestCheckpoints:
    """What is saved, and what a checkpoint may do to the teacher."""

    def test_the_teacher_is_left_out_and_its_hash_stored(self, tmp_path):
        model = build_algorithm(distill_config(tmp_path))
        state = model.state_dict()
        assert not [k for k in state if k.startswith('teacher.')]
        assert state['teacher_sha256'].dtype == torch.uint8
        assert int(state['teacher_sha256'].sum()) > 0
        # Ranks would average a buffer.
        assert not [n for n, _ in model.named_buffers() if 'sha256' in n]
        model = build_algorithm(distill_config(tmp_path, model__save_teacher=True))
        kept = {k for k in model.state_dict() if k.startswith('teacher.')}
        assert len(kept) == len(model.teacher.state_dict())

    def test_round_trip_restores_student_and_keeps_teacher(self, tmp_path):
        cfg = distill_config(tmp_path)
        source, target = build_algorithm(cfg), build_algorithm(cfg)
        before = teacher_weights(target)
        source.init_weights()
        missing, unexpected = target.load_state_dict(source.state_dict())
        assert not missing and not unexpected
        assert_same(target.student.state_dict(), source.student.state_dict())
        assert_same(teacher_weights(target), before)

    def test_another_teacher_is_refused(self, tmp_path):
        state = build_algorithm(distill_config(tmp_path)).state_dict()
        other = str(save_teacher(tmp_path / 'other.pth', seed=1))
        model = build_algorithm(distill_config(tmp_path, model__teacher_ckpt=other))
        before = str(tmp_path / 'teacher.pth')
        match = rf'teacher_ckpt` = {other!r}.*{before!r} \(SHA-256.*student_ckpt'
        with pytest.raises(ValueError, match=match):
            model.load_state_dict(dict(state))
        del state['teacher_file']  # of a release before this one
        with pytest.raises(ValueError, match=rf'{other!r}.*another one \(SHA-256'):
            model.load_state_dict(state)

    def test_foreign_content_is_refused_not_ignored(self, tmp_path):
        """A teacher inside a checkpoint; a checkpoint of the student alone."""
        model = build_algorithm(distill_config(tmp_path))
        before = teacher_weights(model)
        state = {f'teacher.{k}': v + 1 for k, v in before.items()}
        state.update(model.state_dict())
        with pytest.raises(ValueError, match='SHA-256'):
            model.load_state_dict(state, strict=False)
        assert_same(teacher_weights(model), before)
        with pytest.raises(ValueError, match=r'load_from.*model\.student_ckpt'):
            model.load_state_dict(model.student.state_dict(), strict=False)

    def test_a_random_teacher_is_saved_and_restored(self, tmp_path):
        cfg = distill_config(tmp_path, **RANDOM)
        source, target = build_algorithm(cfg), build_algorithm(cfg)
        assert not torch.equal(
            source.teacher.backbone.conv1.weight, target.teacher.backbone.conv1.weight
        )
        target.load_state_dict(source.state_dict())
        assert_same(teacher_weights(target), teacher_weights(source))


class TestStudentCheckpoint:
    """``student_ckpt``: where the student starts from."""

    @pytest.mark.parametrize('prefix', ['', 'architecture.', 'module.architecture.'])
    def test_it_survives_initialisation(self, tmp_path, prefix):
        cfg = distill_config(tmp_path)
        weights = build(cfg.model.architecture).state_dict()
        state = {prefix + k: v for k, v in weights.items()}
        torch.save({'state_dict': state}, tmp_path / 'student.pth')
        cfg.model.student_ckpt = str(tmp_path / 'student.pth')
        model = build_algorithm(cfg)
        model.init_weights()
        assert_same(dict(model.student.state_dict()), dict(weights))

    def test_a_foreign_one_is_refused(self, tmp_path):
        cfg = distill_config(tmp_path)
        cfg.model.student_ckpt = cfg.model.teacher_ckpt
        model = build_algorithm(cfg)
        with pytest.raises(ValueError, match=r'model\.student_ckpt.*unexpected'):
            model.init_weights()

    def test_one_that_is_not_finite_is_refused(self, tmp_path):
        cfg = distill_config(tmp_path)
        weights = build(cfg.model.architecture).state_dict()
        weights['backbone.bn1.running_var'][1] = math.inf
        torch.save(weights, tmp_path / 'student.pth')
        cfg.model.student_ckpt = str(tmp_path / 'student.pth')
        match = r'student_ckpt.*hold nan or inf \(backbone\.bn1\.running_var\)'
        with pytest.raises(ValueError, match=match):
            build_algorithm(cfg).init_weights()


class TestUserErrors:
    """Every mistake names key, value and remedy."""

    @pytest.mark.parametrize(
        ('key', 'value', 'error', 'match'),
        [
            (
                *('teacher_ckpt', 'gone.pth', FileNotFoundError),
                r'model\.teacher_ckpt.*gone\.pth.*train\.py.*resnet20_digits\.py',
            ),
            ('teacher_ckpt', None, ValueError, 'teacher_ckpt.*allow_random_teacher'),
            (
                *('student_ckpt', 'nowhere.pth', FileNotFoundError),
                r'model\.student_ckpt.*nowhere',
            ),
            (
                *('architecture__head__num_classes', 7, ValueError),
                r'head\.num_classes.*7.*scores 10',
            ),
            ('teacher_trainable', True, ValueError, r'model\.teacher_trainable'),
            ('teacher_mode', 'eval', ValueError, r'model\.teacher_mode'),
            ('student_loss_weight', 0.0, ValueError, r'model\.student_loss_weight'),
            ('student_loss_weight', 1e7, ValueError, r'model\.student_loss_weight'),
            ('student_loss_weight', '0.1', TypeError, r'model\.student_loss_weight'),
            (
                *('teacher_checkpoint', 'x', TypeError),
                "`model.teacher_checkpoint` = .*'teacher_ckpt'",
            ),
            (
                *('architecture__backbonee', 1, TypeError),
                r"`model\.architecture\.backbonee` = 1: ImageClassifier.*'backbone'",
            ),
            (
                *('teacher__backbonee', 1, TypeError),
                r"`model\.teacher\.backbonee` = 1: ImageClassifier.*'backbone'",
            ),
        ],
    )
    def test_a_wrong_setting_is_named(self, tmp_path, key, value, error, match):
        cfg = distill_config(tmp_path, **{f'model__{key}': value})
        with pytest.raises(error, match=match):
            build_algorithm(cfg)

    def test_a_teacher_file_that_does_not_fit(self, tmp_path):
        cfg = distill_config(tmp_path)
        path = tmp_path / 'teacher.pth'
        saved = torch.load(path, weights_only=False)
        weight = saved['state_dict'].pop('backbone.conv1.weight')
        torch.save(saved, path)
        with pytest.raises(ValueError, match=r'teacher_ckpt.*1 missing keys'):
            build_algorithm(cfg)
        saved['state_dict'].update({'backbone.conv1.weight': weight, 'extra': weight})
        torch.save(saved, path)
        with pytest.raises(ValueError, match=r'teacher_ckpt.*1 unexpected keys'):
            build_algorithm(cfg)
        weight[3, 1] = math.nan
        del saved['state_dict']['extra']
        torch.save(saved, path)
        match = (
            r'teacher_ckpt.*1 of its tensors hold nan or inf \(backbone\.conv1\.weight'
        )
        with pytest.raises(ValueError, match=match):
            build_algorithm(cfg)
        path.write_bytes(path.read_bytes()[:5000])
        with pytest.raises(ValueError, match=r'model\.teacher_ckpt.*cannot be read'):
            build_algorithm(cfg)

    def test_wrong_number_of_classes_in_the_file(self, tmp_path):
        cfg = distill_config(tmp_path)
        for net in (cfg.model.architecture, cfg.model.teacher):
            net.head.num_classes = 7
        with pytest.raises(ValueError, match=r'scores 10 classes.*asks for 7'):
            build_algorithm(cfg)

    def test_equal_normalisation_is_fine(self, tmp_path):
        cfg = distill_config(tmp_path)
        same = {k: cfg.data_preprocessor[k] for k in ('mean', 'std', 'to_rgb')}
        cfg.model.teacher.data_preprocessor = same
        assert build_algorithm(cfg).teacher_is_loaded

    @pytest.mark.parametrize('place', ['train_cfg', 'data_preprocessor'])
    def test_mixup_in_the_wrong_place(self, tmp_path, place):
        """What the error says to write is taken, and does what was asked for."""
        asked = dict(
            augments=[
                dict(type='Mixup', alpha=0.8),
                dict(type='CutMix', alpha=1.0, correct_lam=False),
            ],
            probs=[0.3, 0.5],
        )
        cfg = distill_config(tmp_path)
        cfg.model.architecture.data_preprocessor = dict(num_classes=10)
        own = dict(batch_augments=asked) if place == 'data_preprocessor' else asked
        cfg.model.architecture[place] = dict(
            cfg.model.architecture.get(place, {}), **own
        )
        with pytest.raises(ValueError, match=r'augments.*batch_augments') as caught:
            build_algorithm(cfg)
        (form,) = re.findall(r'write data_preprocessor=(dict.*)\.$', str(caught.value))
        cfg.data_preprocessor.update(eval(form))
        augments = build_algorithm(cfg).data_preprocessor.batch_augments
        kinds = [type(one).__name__ for one in augments.augments]
        assert kinds == ['Mixup', 'CutMix', 'NoneType']
        assert augments.augments[0].alpha == 0.8

    @pytest.mark.parametrize('key', ['architecture', 'teacher', 'distiller'])
    def test_a_part_that_is_missing_or_misspelt(self, tmp_path, key):
        cfg = distill_config(tmp_path)
        part = cfg.model.pop(key)
        with pytest.raises(TypeError, match=rf'`model\.{key}` = None'):
            build_algorithm(cfg)
        cfg.model[f'{key}s'] = part
        with pytest.raises(TypeError, match=rf'`model\.{key}s` = .*{key!r}'):
            build_algorithm(cfg)


@pytest.mark.parametrize(
    'kind',
    [
        *('BatchPreprocessor', 'ClsDataPreprocessor', 'mmpretrain.ClsDataPreprocessor'),
        *('ImgDataPreprocessor', ClsDataPreprocessor),
    ],
)
def test_the_type_of_the_preprocessor(tmp_path, kind):
    cfg = distill_config(tmp_path)
    cfg.data_preprocessor = dict(type=kind, mean=[1.0] * 3, std=[2.0] * 3)
    found = type(build_algorithm(cfg).data_preprocessor)
    assert found.__name__ == str(getattr(kind, '__name__', kind)).split('.')[-1]


def test_mixup_labels_reach_the_loss(tmp_path):
    cfg = distill_config(tmp_path)
    cfg.data_preprocessor.batch_augments = dict(augments=dict(type='Mixup', alpha=0.8))
    model = build_algorithm(cfg)
    losses = losses_of(model, 8)
    recorder = model.distiller.student_recorders.get_recorder('gt_labels')
    assert recorder.get_record_data(data_idx=1).shape == (8, 10)
    assert torch.isfinite(losses['distill.loss_cakd'])


@pytest.mark.parametrize(
    'name',
    ['demo_digits.py', 'ablations/digits/digits_logit-double_network.py'],
)
def test_a_seed_starts_the_student_as_it_starts_it_alone(tmp_path, name):
    checkpoint = str(save_teacher(tmp_path / 'teacher.pth'))
    cfg = digits_config(f'cakd/{name}', model__teacher_ckpt=checkpoint)
    torch.manual_seed(3)
    alone = build(cfg.model.architecture)
    alone.init_weights()
    torch.manual_seed(3)
    model = build_algorithm(cfg)
    model.init_weights()
    assert_same(dict(model.student.state_dict()), dict(alone.state_dict()))


class TestWhatTheLogSays:
    @pytest.fixture
    def lines(self, monkeypatch):
        lines = []

        def print_log(text, logger=None, level=logging.INFO):
            lines.append((logging.getLevelName(level), text))

        monkeypatch.setattr(teacher_module, 'print_log', print_log)
        return lines

    def test_a_teacher(self, tmp_path, lines):
        cfg = distill_config(tmp_path)
        build_algorithm(cfg)
        path = tmp_path / 'teacher.pth'
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        text = f'The teacher is {path}; SHA-256 {digest}; 10 classes'
        assert lines == [('INFO', text)]

    @pytest.mark.parametrize('plain', [True, False])
    def test_its_score(self, tmp_path, lines, plain):
        """Of a plain student, and of a checkpoint that mmengine has written."""
        cfg = distill_config(tmp_path)
        path = tmp_path / 'teacher.pth'
        content = torch.load(path, weights_only=False)
        names = ('val/accuracy/top1', 'val/time', 'train/loss')
        scalars = dict.fromkeys(names, HistoryBuffer([90.0, 97.256], [1, 1]))
        if plain:
            content['meta']['scores'] = {'accuracy/top1': 97.256}
        else:
            content['message_hub'] = dict(log_scalars=scalars)
        torch.save(content, path)
        build_algorithm(cfg)
        said = 'before this file was written, its run had last scored'
        said = 'it scored' if plain else said
        assert lines[0][1].endswith(f'; {said} accuracy/top1 97.26')

    def test_a_random_teacher_is_warned_of(self, tmp_path, lines):
        build_algorithm(distill_config(tmp_path, **RANDOM))
        ((level, text),) = lines
        assert level == 'WARNING' and 'random weights' in text


def test_a_subclass_may_have_arguments_of_its_own(tmp_path):
    """What it passes on is checked by what it passes it to."""

    @MODELS.register_module(force=True)
    class OwnDistill(FrozenTeacherDistill):
        def __init__(self, of_its_own, distiller, **kwargs):
            super().__init__(
                distiller=distiller, calculate_student_loss=False, **kwargs
            )

    try:
        cfg = distill_config(tmp_path, model__type='OwnDistill', model__of_its_own=1)
        assert build_algorithm(cfg).calculate_student_loss is False
    finally:
        MODELS.module_dict.pop('OwnDistill')
