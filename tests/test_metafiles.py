"""Every shipped distillation config is listed, with the number that was published."""

import csv

import pytest
import yaml
from goldens import SHARED
from mmpretrain.apis import ModelHub
from tiny import CONFIGS

TABLES = SHARED / 'spec' / 'tables.csv'
FILES = sorted(CONFIGS.glob('*/metafile.yml'))
UNITS = 'Top 1 Accuracy', 'mIoU', 'box AP'
DATA = {
    'cifar100': 'CIFAR-100',
    'tiny_imagenet': 'Tiny-ImageNet',
    'imagenet': 'ImageNet-1k',
}


def models() -> dict[str, dict]:
    return {
        model['Name']: model
        for file in FILES
        for model in yaml.safe_load(file.read_text())['Models']
    }


def test_the_index_names_every_metafile():
    index = yaml.safe_load((CONFIGS / 'model-index.yml').read_text())
    assert index['Import'] == [
        file.relative_to(CONFIGS.parent).as_posix() for file in FILES
    ]


def test_every_config_of_a_method_is_listed_under_its_name():
    found = models()
    for name, model in found.items():
        config = CONFIGS.parent / model['Config']
        assert config.is_file()
        assert config.stem == name
    shipped = {p.stem for file in FILES for p in file.parent.glob('*.py')}
    assert set(found) == shipped
    assert len(found) == sum(
        len(yaml.safe_load(file.read_text())['Models']) for file in FILES
    )


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.parent.name)
def test_a_readme_has_every_config_and_its_number(file):
    readme = file.with_name('README.md').read_text()
    for model in yaml.safe_load(file.read_text())['Models']:
        [row] = [x for x in readme.splitlines() if f'[{model["Name"]}]' in x]
        found = (model['Metadata'].get(f'Published {unit}') for unit in UNITS)
        number = next((x for x in found if x is not None), '-')
        assert row.endswith(f'| {number} |') or float(row.split('|')[-2]) == number


def test_the_published_numbers_are_listed_and_no_others():
    """Of the methods of the tables. Others have them from elsewhere."""
    if not TABLES.is_file():
        pytest.skip(f'the published numbers are not at hand: {TABLES}')
    keys = ('method', 'teacher', 'student')
    with TABLES.open() as file:
        published = {
            (*(row[key] for key in keys), DATA[row['dataset']]): float(row['top1'])
            for row in csv.DictReader(file)
            if row['table'] in ('I', 'II', 'III') and row['method'] != 'student'
        }
    listed = {}
    of_tables = {key[0] for key in published}
    for model in models().values():
        about = model['Metadata']
        is_of_tables = model['In Collection'] in of_tables
        if is_of_tables and 'Published Top 1 Accuracy' in about:
            nets = (about['Teacher'], about['Student'], about['Training Data'])
            key = (model['In Collection'], *nets)
            assert key not in listed
            listed[key] = about['Published Top 1 Accuracy']
    assert listed == published


def test_the_hub_finds_a_config_by_name():
    if not ModelHub.has('dkd_r56_r20_cifar100'):
        pytest.skip('a checkout that is not installed has no index')
    found = ModelHub.get('dkd_r56_r20_cifar100')
    assert found.config.model.distiller.distill_losses.loss_dkd.beta == 2.0
