"""The tables' rows against the published numbers and the shipped configs."""

import copy
import csv
import re
from functools import cache

import pytest
from goldens import SHARED
from mmengine.hub import get_config
from test_ablations import FOLDERS, KINDS
from tiny import CONFIGS

from research.runs import read_config
from research.tables import STUDENT, TEACHER, read_tables, select

TABLES = SHARED / 'spec' / 'tables.csv'
# The nets of the published tables, as our configs spell them.
NETS = {
    'resnet56': 'r56',
    'resnet20': 'r20',
    'resnet32x4': 'r32x4',
    'resnet8x4': 'r8x4',
    'wrn40_2': 'wrn40-2',
    'wrn16_2': 'wrn16-2',
    'shufflenet_v1': 'shv1',
    'shufflenet_v2': 'shv2',
    'resnet34': 'r34',
    'resnet18': 'r18',
    'resnet50': 'r50',
    'mobilenet_v2': 'mbv2',
}
DATA = {'tiny_imagenet': 'tinyimagenet', 'imagenet': 'in1k', 'cifar100': 'cifar100'}
OWN = ('digits', 'cifar10-mini', 'beyond-screen', 'beyond')
# Methods that a pair's usual student cannot be trained by: one puts a neck of its own
# into the student, one takes two views of each image.
OWN_NECK, OWN_VIEWS = ('NORM',), ('MLKD',)
PAIRS = [
    pytest.param(table, pair, id=f'{table}-{pair.name}-{pair.data}')
    for table, pairs in read_tables().items()
    for pair in pairs
]


def setting(text: str) -> str:
    """How ``configs/tables.csv`` spells what a row of the published ones varies."""
    if 'ratio' in text:
        return f'CAKD ratio {float(text.split("=")[1]):g}'
    if 'beta' in text:
        return 'CAKD ' + text.replace('=', ' ').replace(',', ' ')
    return f'CAKD {text}'


@pytest.mark.skipif(not TABLES.is_file(), reason=f'not at hand: {TABLES}')
def test_every_published_number_is_a_row_and_no_other():
    expected = {}
    with TABLES.open() as file:
        published = list(csv.DictReader(file))
    alone = {}
    for row in published:
        pair = f'{NETS[row["teacher"]]}_{NETS[row["student"]]}'
        data = DATA[row['dataset']]
        if row['method'] == 'student':
            alone[pair, data] = float(row['top1'])
        small = row['table'] in FOLDERS
        name = setting(row['setting']) if small else row['method']
        expected[row['table'], pair, data, name] = float(row['top1'])
        key = (row['table'], pair, data, TEACHER)
        expected[key] = float(row['teacher_top1'])
    for table, pair, data, _ in list(expected):
        expected[table, pair, data, STUDENT] = alone[pair, data]
    found = {
        (table, pair.name, pair.data, row.name): row.published
        for table, pairs in read_tables().items()
        if table not in OWN
        for pair in pairs
        for row in pair.rows
    }
    assert found == expected


@pytest.mark.parametrize(('table', 'pair'), PAIRS)
def test_the_rows_of_a_pair_share_teacher_student_and_length(table, pair):
    """So that what differs between rows is the method alone."""
    teacher, student, *methods = pair.rows
    assert (teacher.name, student.name) == (TEACHER, STUDENT)
    own = read_config(student.config)
    nets = read_config(teacher.config).model, own.model
    for row in methods:
        cfg = read_config(row.config)
        for key in ('train_cfg', 'param_scheduler', 'optim_wrapper'):
            assert cfg[key] == own[key], (row.name, key)
        for part in ('train_dataloader', 'val_dataloader', 'data_preprocessor'):
            mine, usual = copy.deepcopy(cfg[part]), copy.deepcopy(own[part])
            if part == 'train_dataloader' and row.name in OWN_VIEWS:
                assert mine.dataset.pop('pipeline') != usual.dataset.pop('pipeline')
            assert mine == usual, (row.name, part)
        own_nets = cfg.model.teacher, cfg.model.architecture
        for mine, net in zip(own_nets, nets, strict=True):
            if 'cfg_path' in mine:  # mmpretrain's ImageNet nets
                mine = shipped_net(mine.cfg_path)
            mine, usual = plain(mine), plain(net)
            if row.name in OWN_NECK and mine != usual:
                assert mine.pop('neck') != usual.pop('neck')
            assert mine == usual, row.name


@cache
def shipped_net(name: str):
    return get_config(name).model


def plain(model) -> dict:
    parts = {k: v for k, v in model.items() if v is not None and k != '_scope_'}
    parts.pop('init_cfg', None)
    return parts


@pytest.mark.parametrize(('table', 'pair'), PAIRS)
def test_a_row_is_the_method_that_it_says(table, pair):
    for row in pair.rows[2:]:
        losses = set(read_config(row.config).model.distiller.distill_losses)
        method = re.split('[ ,-]', row.name)[0].lower()
        if row.name.startswith('control'):
            expected = {'loss_cakd', 'loss_feature'}
        elif method != 'cakd':
            expected = {dict(reviewkd='loss_review').get(method, f'loss_{method}')}
        else:
            kind = 'logit' if pair.data == 'in1k' else row.name[5:]
            kind = kind.split(',')[0]
            kind = kind.removesuffix(' & single') + (
                ' & single feature' if kind.endswith('& single') else ''
            )
            expected = KINDS.get(kind, KINDS['logit & single feature'])[1]
        assert losses == expected, row.name


def test_some_of_a_table():
    pairs = select('II', ['wrn40-2_shv1', 'r56_r20'], ['kd', 'CAKD'])
    assert [pair.name for pair in pairs] == ['r56_r20', 'wrn40-2_shv1']
    for pair in pairs:
        names = [row.name for row in pair.rows]
        assert names == ['teacher', 'student', 'KD', 'CAKD']
    assert pairs[0].row('KD').config == CONFIGS / 'kd' / 'kd_r56_r20_tinyimagenet.py'
    assert len(select('II')) == 5
    assert len(select('II')[0].rows) == 10


@pytest.mark.parametrize(
    ('arguments', 'key', 'remedy'),
    [
        (('VIII',), '--table', "'VII'"),
        (('II', ['r56_r21']), '--pairs', "'r56_r20'"),
        (('II', None, ['KDD']), '--methods', "'KD'"),
        (('digits', ['r56_r20']), '--pairs', "'r20_r8'"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(arguments, key, remedy):
    with pytest.raises(ValueError, match=remedy) as caught:
        select(*arguments)
    assert f'`{key}`' in str(caught.value)
