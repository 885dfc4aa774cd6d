"""The rows of the tables: which configs there are, and the numbers they hold."""

import csv

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS
from tiny import CONFIGS

TABLE = CONFIGS / 'hyper_parameters.csv'
METHODS = ('kd', 'crd', 'ofd', 'ctkd', 'reviewkd', 'dkd', 'nkd', 'cmkd', 'dist', 'cakd')
SMALL = {'cifar100': (100, 0), 'tinyimagenet': (200, 1)}
# Teacher and student by the names of a pair: type of the backbone, and parameters with
# 100, 200 or 1,000 classes, as published.
NETS = {
    'r20': ('CIFARResNet', 278_324, 284_824),
    'r56': ('CIFARResNet', 861_620, 868_120),
    'r8x4': ('CIFARResNet', 1_233_540, 1_259_240),
    'r32x4': ('CIFARResNet', 7_433_860, 7_459_560),
    'wrn16-2': ('CIFARWideResNet', 703_284, 716_184),
    'wrn40-2': ('CIFARWideResNet', 2_255_156, 2_268_056),
    'shv1': ('CIFARShuffleNetV1', 949_258, 1_045_358),
    'shv2': ('CIFARShuffleNetV2', 1_355_528, 1_458_028),
    'r18': ('ResNet', 11_689_512),
    'r34': ('ResNet', 21_797_672),
    'r50': ('ResNet', 25_557_032),
    'mbv1': ('MobileNetV1', 4_231_976),
    'mbv2': ('MobileNetV2', 3_504_872),
}
PAIRS = {
    'in1k': ('r34_r18', 'r50_mbv2', 'r50_mbv1'),
    **dict.fromkeys(
        SMALL,
        ('r56_r20', 'r32x4_r8x4', 'wrn40-2_wrn16-2', 'r32x4_shv2', 'wrn40-2_shv1'),
    ),
}
ROWS = [
    pytest.param(method, pair, data, id=f'{method}-{pair}-{data}')
    for method in METHODS
    for data, pairs in PAIRS.items()
    for pair in pairs
]


def config_of(method: str, pair: str, data: str) -> Config:
    prefix = '' if method == 'cakd' else f'{method}_'
    return Config.fromfile(CONFIGS / method / f'{prefix}{pair}_{data}.py')


def numbers() -> list[dict]:
    with TABLE.open() as file:
        return list(csv.DictReader(file))


def value_at(cfg: Config, key: str):
    for name in key.split('.'):
        cfg = cfg[name]
    return cfg


@pytest.mark.parametrize('name', sorted({row['config'] for row in numbers()}))
def test_a_config_has_the_numbers_of_the_table(name):
    cfg = Config.fromfile(CONFIGS / name)
    first = (CONFIGS / name).read_text().splitlines()[0]
    for row in numbers():
        if row['config'] != name:
            continue
        assert value_at(cfg, row['key']) == float(row['value']), row['key']
        assert row['source']
        # What another pair's numbers are is said in the leaf.
        marked = first.startswith('# Not stated for this pair')
        assert marked == row['stated_for_this_pair'].startswith('no: '), row


def test_the_table_has_every_method_but_those_of_tables_four_to_seven():
    listed = {row['config'] for row in numbers()}
    for method in METHODS:
        own = {
            p.relative_to(CONFIGS).as_posix() for p in (CONFIGS / method).glob('*.py')
        }
        # Small sets have the numbers of a pair of the paper.
        small = ('_digits.py', '_cifar10-mini.py')
        own = {name for name in own if not name.endswith(small)}
        if method == 'cakd':  # its features' numbers: test_ablations.py
            own = {name for name in own if name.endswith('_in1k.py')}
        assert own == {name for name in listed if name.startswith(f'{method}/')}


@pytest.mark.parametrize(('method', 'pair', 'data'), ROWS)
def test_a_row_is_of_its_pair_data_and_recipe(method, pair, data):
    cfg = config_of(method, pair, data)
    teacher, student = pair.split('_')
    classes, column = SMALL.get(data, (1000, 0))
    for name, model in (
        (teacher, cfg.model.teacher),
        (student, cfg.model.architecture),
    ):
        kind, *counts = NETS[name]
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            net = MODELS.build(model.copy())
        assert type(net.backbone).__name__ == kind
        assert sum(p.numel() for p in net.parameters()) == counts[column], name
        assert net.head.num_classes == classes
    assert cfg.train_dataloader.dataset.type.lower().startswith(
        {'in1k': 'imagenet', 'cifar100': 'cifar100', 'tinyimagenet': 'tinyimagenet'}[
            data
        ]
    )
    epochs, batch, rate = (100, 512, 0.2) if data == 'in1k' else (240, 128, 0.05)
    if student.startswith('sh'):
        rate = 0.01
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert cfg.optim_wrapper.optimizer.lr == rate
    # The method's own loss is what the folder says.
    [loss] = [
        name for name in cfg.model.distiller.distill_losses if name != 'loss_feature'
    ]
    assert loss == {'reviewkd': 'loss_review'}.get(method, f'loss_{method}')


@pytest.mark.parametrize('data', sorted(PAIRS))
@pytest.mark.parametrize('method', METHODS)
def test_no_row_is_missing_and_none_is_strange(method, data):
    found = {
        path.stem.removeprefix(f'{method}_').removesuffix(f'_{data}')
        for path in (CONFIGS / method).glob(f'*_{data}.py')
    }
    assert found == set(PAIRS[data])
