"""The configs of Tables IV to VII against the rows of ``../shared/spec/tables.csv``."""

import csv
import re

import pytest
from goldens import SHARED
from mmengine.config import Config
from tiny import CONFIGS

FOLDER = CONFIGS / 'cakd' / 'ablations'
TABLES = SHARED / 'spec' / 'tables.csv'
FOLDERS = {'IV': 'table4', 'V': 'table5', 'VI': 'table6', 'VII': 'table7'}
# DKD's beta of a student's pair (methods.md, section 4): the paper's logit gamma.
DKD_BETA = {'resnet20': 2, 'resnet8x4': 8, 'wrn16_2': 6, 'shufflenet_v1': 8}
BOTH = {'loss_cakd', 'loss_feature'}
# The end of a config's name, and its losses.
KINDS = {
    'logit': ('logit', {'loss_cakd'}),
    'single feature': ('single', {'loss_feature'}),
    'logit & single feature': ('logit-single', BOTH),
    'logit & double features': ('logit-double', BOTH | {'loss_second'}),
}


def rows() -> list:
    if not TABLES.is_file():
        reason = f'the published numbers are not at hand: {TABLES}'
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    with TABLES.open() as file:
        found = [row for row in csv.DictReader(file) if row['table'] in FOLDERS]
    return [
        pytest.param(row, id='-'.join((row['table'], row['teacher'], row['setting'])))
        for row in found
    ]


@pytest.mark.parametrize('row', rows())
def test_a_row_has_its_config(row):
    setting, student = row['setting'], row['student']
    beta, gamma, ratio = 8, 2 if row['dataset'] == 'cifar100' else 4, 1.0
    expected = BOTH
    if row['table'] == 'VII':
        kind, expected = KINDS[setting]
    elif row['table'] == 'VI':
        ratio = float(setting.rsplit('=', 1)[1])
        kind = f'ratio{ratio}'
    else:
        beta, gamma = (int(x) for x in re.findall(r'=(\d+)', setting))
        kind = f'b{beta}-g{gamma}'
    pair = f'{row["teacher"]}_{student.replace("_", "-")}'.replace('wrn40_', 'wrn40-')
    pair = pair.replace('resnet', 'r').replace('shufflenet-v', 'shv')
    table = FOLDERS[row['table']]
    name = f'{table}_{pair}_{row["dataset"].replace("_", "")}_{kind}.py'
    cfg = Config.fromfile(FOLDER / table / name)

    distiller = cfg.model.distiller
    losses = distiller.distill_losses
    assert set(losses) == expected == set(distiller.loss_forward_mappings)
    for name in expected - {'loss_cakd'}:
        loss = losses[name]
        assert (loss.tau, loss.alpha, loss.beta, loss.gamma) == (4, 1, beta, gamma)
        assert (loss.scorer.type, loss.strong_share) == ('ScoringNetwork', 0.5)
    if 'loss_cakd' in expected:
        loss = losses.loss_cakd
        assert (loss.tau, loss.alpha, loss.gamma) == (4, 1, DKD_BETA[student])
    if len(expected) > 1:
        balancer = distiller.balancer
        assert set(balancer.losses) == expected - {'loss_cakd'}
        assert (balancer.reference, balancer.ratio) == ('loss_cakd', ratio)
    assert cfg.default_hooks.warmup == dict(type='DistillWarmupHook', epochs=20)
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (240, 128)
    light = student.startswith('shuffle')
    assert cfg.optim_wrapper.optimizer.lr == (0.01 if light else 0.05)


def test_there_is_no_other_config():
    assert len([*FOLDER.glob('table*/*.py')]) == 48
