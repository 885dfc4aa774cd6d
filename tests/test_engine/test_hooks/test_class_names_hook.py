import copy
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmpretrain.datasets import CustomDataset
from PIL import Image
from tiny import build, digits_config, distill_config

from cakd_mm.datasets import Digits, ResidentDataset, SeededDataset
from cakd_mm.engine import launch
from cakd_mm.engine.hooks import class_names_hook
from cakd_mm.models.algorithms.teacher_classes import ClassNames
from cakd_mm.models.algorithms.teacher_entries import Keys
from cakd_mm.utils.class_names import names_in_checkpoint, names_in_dataset

ALONE = 'vanilla/resnet8_digits.py'
DIGITS = tuple('0123456789')
SWAPPED = tuple('0132456789')
SHORTER = DIGITS[:-1]
WORDS = ('zero', *DIGITS[1:])
IN_ORDER = r'\[0, 1, 3, 2, 4, 5, 6, 7, 8, 9\], where it has the same names'
RANGE = r'list\(range\(10\)\)'


def folders(root, *names):
    """Write a folder of one image for each class."""
    for name in names:
        (root / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), 'uint8')).save(root / name / '0.png')
    return dict(
        type='CustomDataset',
        data_root=str(root),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=8),
            dict(type='PackInputs'),
        ],
    )


def with_teacher(tmp_path, meta):
    """A tiny distillation whose teacher's checkpoint says ``meta``."""
    cfg = distill_config(tmp_path, images=32, epochs=1)
    content = torch.load(cfg.model.teacher_ckpt)
    torch.save({**content, 'meta': meta}, cfg.model.teacher_ckpt)
    return cfg


def alone(**options):
    return digits_config(ALONE, images=32, epochs=1, **options)


def classes_of(stage, names):
    return {f'{stage}_dataloader__dataset__classes': list(names)}


@pytest.mark.parametrize(
    ('meta', 'label', 'theirs', 'ours', 'remedy'),
    [
        (dict(dataset_meta=dict(classes=SWAPPED)), 2, "'3'", "'2'", IN_ORDER),
        (dict(CLASSES=list(SWAPPED)), 2, "'3'", "'2'", IN_ORDER),
        (dict(dataset_meta=dict(classes=SHORTER)), 9, 'nothing', "'9'", RANGE),
        (dict(dataset_meta=dict(classes=WORDS)), 0, "'zero'", "'0'", RANGE),
        (dict(CLASSES=('a', *SWAPPED[1:])), 0, "'a'", "'0'", r'teacher has for it\.'),
    ],
)
def test_a_teacher_of_other_classes_is_refused(
    tmp_path, make_runner, meta, label, theirs, ours, remedy
):
    runner = make_runner(with_teacher(tmp_path, meta))
    match = (
        rf"`model.teacher_ckpt` = '.*teacher.pth': It calls class {label} {theirs}, "
        rf'but train_dataloader.dataset calls it {ours}: .* model.teacher_classes='
        rf'.*{remedy}'
    )
    with pytest.raises(ValueError, match=match):
        runner.train()
    assert runner.iter == 0


def test_the_remedy_can_be_copied(tmp_path, make_runner):
    for names in (SWAPPED, WORDS):
        cfg = with_teacher(tmp_path, dict(CLASSES=names))
        with pytest.raises(ValueError) as caught:
            make_runner(cfg, f'refused-{names[0]}').train()
        found = re.search(r'(\[[\d, ]+\]|range\(10\))', str(caught.value))[1]
        cfg.model.teacher_classes = list(eval(found))
        make_runner(cfg, f'mended-{names[0]}').train()


def test_an_index_of_another_class_than_the_name_says_is_refused(tmp_path, make_runner):
    cfg = with_teacher(tmp_path, dict(CLASSES=SWAPPED))
    cfg.model.teacher_classes = [*range(10)]
    match = (
        r'`model.teacher_classes` = \[0, 1, 2, .*: It calls class 2 .3., but '
        rf"train_dataloader.dataset calls it '2': .*model.teacher_classes={IN_ORDER}"
    )
    with pytest.raises(ValueError, match=match):
        make_runner(cfg).train()


def test_another_spelling_is_logged(tmp_path, make_runner, monkeypatch):
    lines = []
    monkeypatch.setattr(
        class_names_hook, 'print_log', lambda text, *_: lines.append(text)
    )
    cfg = with_teacher(tmp_path, dict(CLASSES=WORDS))
    cfg.model.teacher_classes = [*range(10)]
    make_runner(cfg).train()
    [line] = lines
    assert line.endswith('other ones: 0 is zero (model.teacher_classes).')


def test_each_teacher_of_a_list_is_compared():
    """Of the first alone no name is known."""
    keys = Keys(classes='model.teacher.1.classes')
    names = [ClassNames(), ClassNames(('b', 'a'), ('a', 'b'), (1, 0), keys)]
    model = SimpleNamespace(teacher_class_names=names)
    match = r'`model\.teacher\.1\.classes` = \[1, 0\]: .*teacher\.1\.classes=\[0, 1\]'
    with pytest.raises(ValueError, match=match):
        class_names_hook._compare_teachers(model, 'key', ('a', 'b'))


def test_the_order_of_classes_that_were_chosen_wrongly_is_not_offered():
    chosen = ClassNames(('b', 'c'), ('a', 'b', 'c'), (1, 2))
    model = SimpleNamespace(teacher_class_names=[chosen])
    match = "calls class 0 'b', but key calls it 'a': .* teacher has for it\\.$"
    with pytest.raises(ValueError, match=match):
        class_names_hook._compare_teachers(model, 'key', ('a', 'x'))


@pytest.mark.parametrize('meta', [{}, dict(dataset_meta=dict(classes=list(DIGITS)))])
def test_a_teacher_of_the_same_or_of_unknown_classes_teaches(
    tmp_path, make_runner, meta
):
    runner = make_runner(with_teacher(tmp_path, meta))
    runner.train()
    assert runner.iter == 1


def test_a_teacher_is_compared_with_labelled_images_if_it_teaches_others(
    tmp_path, make_runner
):
    cfg = with_teacher(tmp_path, dict(dataset_meta=dict(classes=SWAPPED)))
    cfg.train_dataloader.dataset.metainfo = dict(classes=[])
    match = "calls class 2 '3', but val_dataloader.dataset calls it '2'"
    with pytest.raises(ValueError, match=match):
        make_runner(cfg).train()


@pytest.mark.parametrize('stage', ['val', 'test'])
@pytest.mark.parametrize('resident', [False, True])
def test_sets_of_other_classes_are_refused(make_runner, stage, resident):
    """That of the test is known by its config alone."""
    cfg = alone(**classes_of(stage, SWAPPED), train_cfg__resident=resident)
    runner = make_runner(cfg)
    match = (
        rf"`{stage}_dataloader.dataset` = '10 classes \(0, 1, 3, ...\)': It calls "
        r"label 2 '3', but train_dataloader.dataset calls it '2'. .* empty folder .*"
        'classes='
    )
    with pytest.raises(ValueError, match=match):
        runner.train()
    assert isinstance(runner._test_loop, dict)


def test_a_validation_folder_without_one_class_is_refused(tmp_path, make_runner):
    cfg = alone()
    cfg.train_dataloader.dataset = folders(tmp_path / 'a', 'ant', 'bee', 'cat')
    cfg.val_dataloader.dataset = folders(tmp_path / 'b', 'ant', 'cat')
    with pytest.raises(ValueError, match="label 1 'cat', but .* calls it 'bee'"):
        make_runner(cfg).train()
    (tmp_path / 'b' / 'bee').mkdir()  # what the error says
    make_runner(cfg, 'mended').train()


def test_names_in_another_order_than_their_folders_are_refused(tmp_path, make_runner):
    cfg = alone()
    cfg.train_dataloader.dataset = folders(tmp_path / 'a', 'ant', 'bee', 'cat')
    cfg.train_dataloader.dataset.classes = ['ant', 'cat', 'bee']
    match = (
        "`train_dataloader.dataset.classes` = .*: Label 1 is the folder 'bee', .* has "
        "'cat' there"
    )
    with pytest.raises(ValueError, match=match):
        make_runner(cfg).train()
    # Names of one's own, which say the same, are right.
    cfg.train_dataloader.dataset.classes = ['Ameise', 'Biene', 'Katze']
    cfg.val_dataloader.dataset.metainfo = dict(classes=['Ameise', 'Biene', 'Katze'])
    make_runner(cfg, 'named').train()


def checkpoint_of(tmp_path, names, **more):
    """Save what a training on classes of these names could have saved."""
    torch.manual_seed(0)
    net = build(alone().model)
    meta = dict(epoch=1, iter=1, dataset_meta=dict(classes=names))
    content = dict(meta=meta, state_dict=net.state_dict(), **more)
    torch.save(content, tmp_path / 'own.pth')
    return str(tmp_path / 'own.pth')


def test_a_run_goes_on_with_its_own_classes_alone(tmp_path, make_runner):
    first = make_runner(alone())
    first.train()
    other = alone(**classes_of('train', SWAPPED), **classes_of('val', SWAPPED))
    other.test_dataloader.dataset.classes = list(SWAPPED)
    other.train_cfg.max_epochs = 2
    other.load_from = f'{first.work_dir}/epoch_1.pth'
    fine_tuned = make_runner(copy.deepcopy(other), 'fine-tuned')
    fine_tuned.train()
    assert fine_tuned.epoch == 2
    other.resume = True
    match = (
        "`train_dataloader.dataset` = .*: It calls label 2 '3', but the set that the "
        "checkpoint was trained on calls it '2'"
    )
    with pytest.raises(ValueError, match=match):
        make_runner(other, 'resumed').train()


@pytest.mark.parametrize('stage', ['val', 'test'])
def test_a_checkpoint_of_other_classes_is_not_scored(tmp_path, make_runner, stage):
    cfg = alone(load_from=checkpoint_of(tmp_path, SWAPPED))
    match = f"`{stage}_dataloader.dataset` = .*label 2 '2', but .*calls it '3'"
    with pytest.raises(ValueError, match=match):
        getattr(make_runner(cfg), stage)()
    same = alone(load_from=checkpoint_of(tmp_path, DIGITS))
    assert 'accuracy/top1' in getattr(make_runner(same, 'same'), stage)()


def test_the_tool_for_tests_does_not_score_it_either(tmp_path):
    def runner_of(names):
        cfg = alone(launcher='none', work_dir=str(tmp_path), experiment_name=names[2])
        return launch.build_test_runner(cfg, checkpoint_of(tmp_path, names))

    with pytest.raises(ValueError, match="label 2 '2', but the set that the checkp"):
        runner_of(SWAPPED).test()
    assert 'accuracy/top1' in runner_of(DIGITS).test()


# What names its classes


def digits(**options):
    return Digits(indices=4, pipeline=[dict(type='PackInputs')], **options)


def found(dataset):
    return [(key, names) for key, _, names in names_in_dataset(dataset, 'x')]


@pytest.mark.parametrize(
    'wrap',
    [
        lambda x: RepeatDataset(x, 2),
        lambda x: SeededDataset(RepeatDataset(x, 2), 0),
        lambda x: ResidentDataset(x, cache_dir=None),
        lambda x: torch.utils.data.Subset(x, [0]),
        lambda x: SimpleNamespace(_dataset=x),
    ],
)
def test_wrappers_are_looked_through(wrap):
    assert found(wrap(digits())) == [('x', DIGITS)]


def test_each_part_of_a_concatenated_set_is_looked_at():
    parts = [digits(), digits(classes=SWAPPED)]
    both = ConcatDataset(parts, ignore_keys='classes')
    expected = [('x.datasets.0', DIGITS), ('x.datasets.1', SWAPPED)]
    assert found(SeededDataset(both, 0)) == expected
    configs = [dict(type='Digits', metainfo=dict(classes=list(DIGITS)))]
    configs += [dict(classes=list(SWAPPED)), dict(classes='file.txt'), dict()]
    assert found(dict(dataset=dict(datasets=configs))) == expected


def test_images_without_labels_name_no_classes(tmp_path):
    folders(tmp_path, 'a')
    assert found(CustomDataset(data_root=str(tmp_path), with_label=False)) == []


@pytest.mark.parametrize(
    'names',
    [
        np.array(['a', 'b']),
        torch.tensor([0, 1]),
        {1: 'b', 0: 'a'},
        {'1': 'b', '0': 'a'},
        ['a', 'b'],
    ],
)
def test_names_of_other_kinds(names):
    wanted = ('0', '1') if isinstance(names, torch.Tensor) else ('a', 'b')
    for meta in (
        dict(CLASSES=names),
        *(dict(dataset_meta={key: names}) for key in ('classes', 'CLASSES')),
    ):
        assert names_in_checkpoint(dict(meta=meta)) == wanted
    assert found(SimpleNamespace(metainfo=dict(CLASSES=names))) == [('x', wanted)]


@pytest.mark.parametrize('names', ['file.txt', {0: 'a', 2: 'b'}, {}, [], {'a', 'b'}, 7])
def test_what_names_no_classes(names):
    assert names_in_checkpoint(dict(meta=dict(CLASSES=names))) is None


@pytest.mark.parametrize('meta', [None, {}, dict(dataset_meta={}), dict(CLASSES=None)])
def test_a_checkpoint_may_name_none(meta):
    assert names_in_checkpoint(dict(meta=meta)) is None
