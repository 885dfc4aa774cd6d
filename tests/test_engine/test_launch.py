import argparse
import io
import logging
import os
import pickle
import re
import shutil
import socket
import sys
import tarfile
import urllib.request
from hashlib import md5
from http.client import BadStatusLine
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR100
from mmpretrain.registry import DATASETS
from tiny import CONFIGS, build, digits_config, distill_config
from tools_inside import TOOLS

from cakd_mm import __version__
from cakd_mm.engine import launch
from cakd_mm.engine.launch.keys import unread_keys
from cakd_mm.utils.extract import file_of

RANKS = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')


@pytest.fixture(autouse=True)
def _launcher_variables(monkeypatch):
    """Start without any launcher's variables and put back what was there."""
    before = dict(os.environ)
    for name in before:
        if name in RANKS or name.startswith(('SLURM_', 'OMPI_')):
            monkeypatch.delenv(name)
    yield
    for name in RANKS:
        os.environ.pop(name, None)


@pytest.fixture
def on(monkeypatch):
    def device(name):
        monkeypatch.setattr(launch.device, 'get_device', lambda: name)

    return device


def arguments(config, **changes):
    given = dict(work_dir=None, cfg_options={}, launcher='none', local_rank=0)
    return argparse.Namespace(config=str(config), **{**given, **changes})


def amp_config(launcher='none', **optim_wrapper):
    sgd = dict(type='SGD', lr=0.1)
    optim_wrapper = dict(optimizer=sgd, **optim_wrapper)
    return Config(dict(launcher=launcher, optim_wrapper=optim_wrapper))


class TestReadConfig:
    def test_merges_options_and_names_the_work_dir(self):
        path = CONFIGS / 'vanilla/resnet8_digits.py'
        options = {'train_cfg.max_epochs': 3, 'train_dataloader.dataset.indices': 8}
        cfg = launch.read_config(arguments(path, cfg_options=options, local_rank=1))
        assert cfg.train_cfg.max_epochs == 3
        assert cfg.train_cfg.type == 'ResumableTrainLoop'
        assert cfg.train_dataloader.dataset.indices == 8
        assert cfg.work_dir == os.path.join('work_dirs', 'resnet8_digits')
        assert cfg.launcher == 'none'
        assert os.environ['LOCAL_RANK'] == '1'

    @pytest.mark.parametrize(
        ('given', 'written', 'expected'),
        [
            (None, None, os.path.join('work_dirs', 'leaf')),
            (None, 'of_config', 'of_config'),
            ('given', 'of_config', 'given'),
        ],
    )
    def test_work_dir(self, tmp_path, given, written, expected):
        leaf = tmp_path / 'leaf.py'
        leaf.write_text(f'work_dir = {written!r}\n')
        assert launch.read_config(arguments(leaf, work_dir=given)).work_dir == expected

    def test_reads_an_installed_config(self):
        cfg = launch.read_config(arguments('cakd_mm::vanilla/resnet20_digits.py'))
        assert cfg.model.backbone == dict(type='CIFARResNet', depth=20)
        assert cfg.work_dir == os.path.join('work_dirs', 'resnet20_digits')

    @pytest.mark.parametrize(
        ('config', 'problem'),
        [
            ('configs/nothing_here.py', 'No such file'),
            ('configs', 'No such file'),
            ('cakd_mm::cakd/nothing_here.py', 'nothing_here.py" does not exist'),
            ('cakd_mm::demo_digits.py', 'relative config path'),
            ('no_such_package::cakd/demo.py', 'load no_such_package config'),
            ('argparse::cakd/demo.py', 'mmengine does not support'),
            (
                'mmpose::resnet/resnet18.py',
                'mmpose is not installed; type pip install mmpose',
            ),
            ('::cakd/demo.py', 'mmengine does not support'),
        ],
    )
    def test_names_a_config_that_is_not_there(self, config, problem):
        with pytest.raises(FileNotFoundError, match='`config` = ') as caught:
            launch.read_config(arguments(config))
        assert repr(config) in str(caught.value)
        assert problem in str(caught.value)

    @pytest.mark.parametrize(
        ('option', 'error', 'named'),
        [
            ({'trian_cfg.max_epochs': 1}, KeyError, "'train_cfg'"),
            ({'train_cfg.max_epochs.x': 1}, TypeError, '--cfg-options train_cfg.max'),
            ({'train_dataloader.dataset.pipeline.9.x': 1}, KeyError, 'Index 9'),
            ({'resume': True, 'data_preprocessor.std.2': 5}, ValueError, 'std.2` = 5'),
        ],
    )
    def test_options_that_fit_nothing(self, option, error, named):
        path = CONFIGS / 'vanilla/resnet8_digits.py'
        with pytest.raises(error) as caught:
            launch.read_config(arguments(path, cfg_options=option))
        assert named in str(caught.value)


@pytest.mark.parametrize(
    ('device', 'wanted', 'found'),
    [('cuda', True, ':4096:8'), ('cuda', False, None), ('cpu', True, None)],
)
def test_a_deterministic_run_may_multiply_matrices(
    on, monkeypatch, device, wanted, found
):
    """PyTorch refuses to on CUDA where this variable is missing."""
    name = 'CUBLAS_WORKSPACE_CONFIG'
    monkeypatch.setenv(name, 'to be put back')
    monkeypatch.delenv(name)
    on(device)
    cfg = Config(dict(launcher='none', randomness=dict(deterministic=wanted)))
    launch.adapt_to_device(cfg)
    assert os.environ.get(name) == found


class TestMixedPrecision:
    @pytest.mark.parametrize('type_', [{}, dict(type='OptimWrapper')])
    def test_bf16_on_cpu(self, on, type_):
        on('cpu')
        cfg = amp_config(**type_)
        launch.use_amp(cfg)
        launch.adapt_to_device(cfg)
        assert cfg.optim_wrapper == dict(
            type='BF16OptimWrapper',
            dtype='bfloat16',
            optimizer=dict(type='SGD', lr=0.1),
        )

    def test_what_only_a_gpu_has_is_dropped_on_cpu(self, on):
        on('cpu')
        cfg = amp_config(
            type='AmpOptimWrapper',
            loss_scale='dynamic',
            use_fsdp=True,
            accumulative_counts=2,
        )
        launch.adapt_to_device(cfg)
        assert set(cfg.optim_wrapper) == {
            'type',
            'dtype',
            'optimizer',
            'accumulative_counts',
        }

    @pytest.mark.parametrize(
        'cfg', [Config(dict(launcher='none')), amp_config(type='OptimWrapper')]
    )
    def test_what_asks_for_no_mixed_precision_stays(self, on, cfg):
        on('cpu')
        before = cfg.to_dict()
        launch.adapt_to_device(cfg)
        assert cfg.to_dict() == before

    @pytest.mark.parametrize(
        ('given', 'scale'), [({}, None), (dict(loss_scale=512.0), 512.0)]
    )
    def test_fp16_with_loss_scaling_on_a_gpu(self, on, given, scale):
        on('cuda')
        cfg = amp_config(**given)
        launch.use_amp(cfg)
        launch.adapt_to_device(cfg)
        assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
        # mmengine's default is loss scaling.
        assert cfg.optim_wrapper.get('loss_scale') == scale
        assert 'dtype' not in cfg.optim_wrapper

    def test_bf16_on_a_gpu_has_no_loss_scaling_unless_it_is_asked_for(self, on):
        on('cuda')
        for given, kind in (
            (dict(dtype='bfloat16', use_fsdp=True), 'BF16OptimWrapper'),
            (dict(dtype=torch.bfloat16), 'BF16OptimWrapper'),
            (dict(dtype='bfloat16', loss_scale='dynamic'), 'AmpOptimWrapper'),
        ):
            cfg = amp_config(**given)
            launch.use_amp(cfg)
            launch.adapt_to_device(cfg)
            assert cfg.optim_wrapper.type == kind
            assert 'use_fsdp' not in cfg.optim_wrapper

    def test_mixed_precision_on_an_apple_gpu_is_refused_by_name(self, on):
        on('mps')
        cfg = amp_config()
        launch.use_amp(cfg)
        with pytest.raises(ValueError, match=r'optim_wrapper\.type.*--amp'):
            launch.adapt_to_device(cfg)
        cfg.optim_wrapper.type = 'OptimWrapper'  # as the message says
        launch.adapt_to_device(cfg)

    def test_ranks_on_an_apple_gpu_are_refused_by_name(self, monkeypatch):
        monkeypatch.setattr(launch.ranks, 'get_device', lambda: 'mps')
        launch.join_ranks(amp_config())
        with pytest.raises(ValueError, match="launcher.* = 'pytorch'.*Apple"):
            launch.join_ranks(amp_config('pytorch'))


PLAIN = dict(
    type='MMDistributedDataParallel',
    find_unused_parameters=False,
    broadcast_buffers=False,
)


class TestProcesses:
    @pytest.mark.parametrize('launcher', ['none', 'pytorch', 'slurm'])
    def test_nothing_changes_with_a_gpu(self, on, launcher):
        on('cuda')
        cfg = amp_config(launcher, type='AmpOptimWrapper', dtype='float16')
        before = cfg.to_dict()
        launch.adapt_to_device(cfg)
        assert cfg.to_dict() == before
        assert not dist.is_initialized()

    def test_a_wrapper_with_a_gpu_has_the_defaults_of_mmengine(self, on):
        on('cuda')
        own = dict(type='MMFullyShardedDataParallel')
        for written, expected in (
            (dict(static_graph=True), dict(static_graph=True, **PLAIN)),
            (dict(broadcast_buffers=True), {**PLAIN, 'broadcast_buffers': True}),
            (own, own),
        ):
            cfg = amp_config('pytorch', type='OptimWrapper')
            cfg.model_wrapper_cfg = written
            launch.adapt_to_device(cfg)
            assert cfg.model_wrapper_cfg == expected

    @pytest.mark.parametrize(
        ('written', 'expected'),
        [
            ({}, dict(find_unused_parameters=False, broadcast_buffers=False)),
            (
                dict(find_unused_parameters=True),
                dict(find_unused_parameters=True, broadcast_buffers=False),
            ),
            (
                dict(
                    model_wrapper_cfg=dict(
                        type='MMDistributedDataParallel',
                        device_ids=[0],
                        broadcast_buffers=True,
                    )
                ),
                dict(find_unused_parameters=False, broadcast_buffers=True),
            ),
        ],
    )
    def test_gloo_without_a_gpu(self, on, monkeypatch, written, expected):
        on('cpu')
        made = []

        def make(backend, _, timeout):
            made.append((backend, timeout.total_seconds()))

        monkeypatch.setattr(dist, 'init_process_group', make)
        for name, value in dict(RANK='1', WORLD_SIZE='2', LOCAL_RANK='1').items():
            monkeypatch.setenv(name, value)
        cfg = Config(dict(launcher='pytorch', **written))
        launch.adapt_to_device(cfg)
        assert made == [('gloo', 600)]
        assert cfg.model_wrapper_cfg == dict(
            type='MMDistributedDataParallel', device_ids=None, **expected
        )

    @pytest.mark.parametrize(
        ('chosen', 'error', 'expected'),
        [
            ('torch', ValueError('SyncBatchNorm layers only work with GPU'), 'None'),
            ('mmcv', ModuleNotFoundError("No module named 'mmcv._ext'"), "'torch'"),
        ],
    )
    def test_sync_bn_that_cannot_be_made(self, monkeypatch, chosen, error, expected):
        def fail(cfg):
            raise error

        monkeypatch.setattr(Runner, 'from_cfg', fail)
        cfg = digits_config('vanilla/resnet8_digits.py', sync_bn=chosen)
        text = f'`sync_bn` = {chosen!r}: .* Write sync_bn={expected}'
        with pytest.raises(ValueError, match=text):
            launch.build_runner(cfg)
        cfg.pop('sync_bn')
        with pytest.raises(type(error), match=f'^{re.escape(str(error))}$'):
            launch.build_runner(cfg)

    @pytest.mark.parametrize('value', ['Torch', True])
    def test_sync_bn_of_another_name(self, value):
        cfg = digits_config('vanilla/resnet8_digits.py', sync_bn=value)
        with pytest.raises(TypeError, match=f'`sync_bn` = {value!r}: .*sync_bn=.torch'):
            launch.check_own_arguments(cfg)

    @pytest.mark.parametrize('device', ['cpu', 'cuda'])
    def test_timeout(self, on, monkeypatch, device):
        on(device)
        made = []
        monkeypatch.setattr(
            dist,
            'init_process_group',
            lambda *_, timeout: made.append(timeout.seconds),
        )
        monkeypatch.setattr(
            launch.ranks, 'init_dist', lambda _, timeout, **rest: made.append(timeout)
        )
        for name, value in dict(RANK='0', WORLD_SIZE='2', LOCAL_RANK='0').items():
            monkeypatch.setenv(name, value)
        dist_cfg = dict(backend='nccl', timeout=20)
        launch.join_ranks(
            Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dist_cfg)))
        )
        launch.join_ranks(Config(dict(launcher='pytorch')))
        assert made == [20, 600]
        for wrong in (0, -1, '20', True, float('inf'), None):
            dist_cfg['timeout'] = wrong
            cfg = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dist_cfg)))
            with pytest.raises(ValueError, match='env_cfg.dist_cfg.timeout'):
                launch.join_ranks(cfg)

    def test_a_rank_joins_before_it_fails(self, monkeypatch):
        """Only so can the others be told."""
        joined = []
        monkeypatch.setattr(launch.ranks, 'join_ranks', joined.append)
        with launch.joined_on_error('slurm'):
            pass
        with pytest.raises(dist.DistError), launch.joined_on_error('slurm'):
            raise dist.DistError  # It is joining that has failed.
        assert joined == []
        with pytest.raises(KeyError), launch.joined_on_error('slurm'):
            raise KeyError
        assert [dict(cfg) for cfg in joined] == [dict(launcher='slurm')]

    @pytest.mark.parametrize(
        ('launcher', 'names'),
        [
            ('pytorch', ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')),
            ('slurm', ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID')),
            (
                'mpi',
                (
                    'OMPI_COMM_WORLD_RANK',
                    'OMPI_COMM_WORLD_SIZE',
                    'OMPI_COMM_WORLD_LOCAL_RANK',
                ),
            ),
        ],
    )
    def test_rank_variables(self, monkeypatch, launcher, names):
        for name, value in zip(names, '562', strict=True):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv('MASTER_PORT', '12345')
        launch.ranks._set_rank_variables(launcher)
        found = [os.environ[name] for name in RANKS]
        assert found == ['5', '6', '2', '127.0.0.1', '12345']
        monkeypatch.delenv(names[1])
        with pytest.raises(OSError, match=f'variable {names[1]} is not set') as caught:
            launch.ranks._set_rank_variables(launcher)
        assert 'dist_train.sh' in str(caught.value)

    def test_several_slurm_nodes_without_a_gpu_need_an_address(self, on, monkeypatch):
        on('cpu')
        for name, value in dict(PROCID=0, NTASKS=2, LOCALID=0, NNODES=2).items():
            monkeypatch.setenv(f'SLURM_{name}', str(value))
        with pytest.raises(OSError, match=r'--launcher.*slurm.*MASTER_ADDR'):
            launch.adapt_to_device(amp_config('slurm'))


def loader(**dataset):
    return dict(batch_size=2, dataset=dict(type='ImageNet', **dataset))


class TestCheckData:
    @pytest.mark.parametrize('part', ['train', 'val'])
    def test_missing_folder_is_named_with_its_key(self, tmp_path, part):
        cfg = Config(
            dict(
                train_dataloader=loader(data_root=str(tmp_path)),
                val_dataloader=loader(data_root=str(tmp_path)),
            )
        )
        launch.check_data(cfg, ('train', 'val'))
        missing = str(tmp_path / 'imagenet')
        cfg[f'{part}_dataloader'].dataset.data_root = missing
        with pytest.raises(FileNotFoundError) as caught:
            launch.check_data(cfg, ('train', 'val'))
        key = f'{part}_dataloader.dataset.data_root'
        assert f'`{key}` = {missing!r}' in str(caught.value)
        assert f'--cfg-options {key}=' in str(caught.value)
        launch.check_data(cfg, ('test',))

    def test_looks_into_wrappers(self, tmp_path):
        parts = [
            dict(type='ImageNet', data_root=str(tmp_path)),
            dict(type='ImageNet', data_root='absent'),
        ]
        inner = dict(type='ConcatDataset', datasets=parts)
        wrapped = dict(dataset=dict(type='RepeatDataset', times=2, dataset=inner))
        key = r'train_dataloader\.dataset\.dataset\.datasets\.1\.data_root'
        with pytest.raises(FileNotFoundError, match=f"`{key}` = 'absent'"):
            launch.check_data(Config(dict(train_dataloader=wrapped)), ('train',))

    @pytest.mark.parametrize(
        'cfg',
        [
            {},
            dict(train_dataloader=None),
            dict(train_dataloader=dict(dataset=dict(type='Digits', split='train'))),
            dict(train_dataloader=loader(data_root='s3://bucket/imagenet')),
            dict(train_dataloader=dict(dataset=dict(type='MNIST', data_root='absent'))),
        ],
    )
    def test_what_needs_no_folder(self, cfg):
        launch.check_data(Config(cfg), ('train',))


@pytest.fixture
def no_network(monkeypatch):
    """Fail as without a network, and return what was asked for."""
    asked = []

    def fail(*address, **options):
        asked.append((*address, *options.values()))
        raise URLError('Name or service not known')

    for place in (launch.checks, urllib.request):
        monkeypatch.setattr(place, 'urlopen', fail)
    monkeypatch.setattr(socket.socket, 'connect', fail)
    return asked


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """A CIFAR-100 of six and four images, as its archive is unpacked.

    Its check sums are those mmpretrain expects.
    """
    folder = tmp_path / 'cifar100' / 'cifar-100-python'
    folder.mkdir(parents=True)
    sums = {}
    for name, count in (('train', 6), ('test', 4)):
        random = np.random.RandomState(count)
        data = random.randint(0, 256, (count, 3072), np.uint8)
        labels = [10 * i for i in range(count)]
        content = pickle.dumps(dict(data=data, fine_labels=labels))
        (folder / name).write_bytes(content)
        sums[name] = md5(content).hexdigest()
    monkeypatch.setattr(CIFAR100, 'train_list', [['train', sums['train']]])
    monkeypatch.setattr(CIFAR100, 'test_list', [['test', sums['test']]])
    return folder


class TestCifar:
    """Through the shipped config."""

    PARTS = ('train', 'val', 'test')

    def config(self, folder, **options):
        cfg = Config.fromfile(CONFIGS / '_base_/datasets/cifar100.py')
        for part in self.PARTS:
            dataset = cfg[f'{part}_dataloader'].dataset
            dataset.update(data_root=str(folder.parent), **options)
        return cfg

    def check_fails(self, cfg, why, part='train'):
        root = re.escape(cfg.train_dataloader.dataset.data_root)
        key = rf'{part}_dataloader\.dataset\.data_root'
        match = (
            rf"`{key}` = '{root}': It holds no whole cifar-100-python, and {why}.* "
            rf'Link the data there, or pass --cfg-options {key}='
        )
        with pytest.raises(FileNotFoundError, match=match):
            launch.check_data(cfg, (part,))

    def test_a_local_copy_needs_no_network(self, cifar100, no_network):
        prefixed = self.config(cifar100.parent, data_prefix='cifar100')
        launch.check_data(prefixed, self.PARTS)
        cfg = self.config(cifar100)
        launch.check_data(cfg, self.PARTS)
        for part, split in (('train', 'train'), ('val', 'test'), ('test', 'test')):
            dataset = cfg[f'{part}_dataloader'].dataset
            with DefaultScope.overwrite_default_scope('mmpretrain'):
                data = DATASETS.build(dataset)
            raw = pickle.loads((cifar100 / split).read_bytes())
            assert data.get_gt_labels().tolist() == raw['fine_labels']
            assert len(data.CLASSES) == 100
            images = [data.get_data_info(i)['img'] for i in range(len(data))]
            planes = np.stack(images).transpose(0, 3, 1, 2)
            assert np.array_equal(planes.reshape(-1, 3072), raw['data'])
            assert data[0]['inputs'].shape == (3, 32, 32)
        assert not no_network

    @pytest.mark.parametrize(
        ('part', 'harm'), [('train', 'deleted'), ('val', 'damaged'), ('test', 'moved')]
    )
    @pytest.mark.parametrize('kind', ['CIFAR100', 'mmpretrain.CIFAR100'])
    def test_no_whole_copy_and_no_network(self, cifar100, no_network, part, harm, kind):
        cfg = self.config(cifar100, type=kind)
        if harm == 'deleted':
            (cifar100 / 'train').unlink()
        elif harm == 'damaged':
            (cifar100 / 'test').write_bytes((cifar100 / 'test').read_bytes()[:-1])
        else:
            cifar100.parent.rename(cifar100.parents[1] / 'elsewhere')
        why = r'https://\S+/cifar-100-python\.tar\.gz cannot be reached \(.*not known'
        self.check_fails(cfg, why, part)
        assert no_network == [(CIFAR100.url, 10)]  # seconds

    def test_a_proxy_that_speaks_no_http(self, cifar100, monkeypatch):
        def fail(*_, **options):
            raise BadStatusLine('who are you')

        monkeypatch.setattr(launch.checks, 'urlopen', fail)
        (cifar100 / 'train').unlink()
        self.check_fails(self.config(cifar100), 'https://.*who are you')

    def test_without_download_the_network_is_not_asked(self, cifar100, no_network):
        (cifar100 / 'train').unlink()
        self.check_fails(self.config(cifar100, download=False), 'download=False')
        assert not no_network

    def test_an_archive_needs_no_network(self, cifar100, no_network, monkeypatch):
        """Mmpretrain unpacks it."""
        archive = cifar100.parent / 'cifar-100-python.tar.gz'
        with tarfile.open(archive, 'w:gz') as file:
            file.add(cifar100, cifar100.name)
        shutil.rmtree(cifar100)
        cfg = self.config(cifar100)
        self.check_fails(cfg, 'https://')  # another archive than mmpretrain's
        no_network.clear()
        monkeypatch.setattr(CIFAR100, 'tgz_md5', md5(archive.read_bytes()).hexdigest())
        launch.check_data(cfg, self.PARTS)
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 6
        assert not no_network

    def test_what_can_be_downloaded_is_left_to_mmpretrain(self, tmp_path, monkeypatch):
        opened = []
        monkeypatch.setattr(
            launch.checks,
            'urlopen',
            lambda url, timeout: opened.append(url) or io.BytesIO(),
        )
        cfg = self.config(tmp_path / 'absent' / 'cifar-100-python')
        launch.check_data(cfg, ('train',))
        assert opened == [CIFAR100.url]


class TestAutoScaleLr:
    def test_turns_it_on(self):
        cfg = Config(dict(auto_scale_lr=dict(base_batch_size=64)))
        launch.enable_auto_scale_lr(cfg)
        assert cfg.auto_scale_lr == dict(base_batch_size=64, enable=True)

    @pytest.mark.parametrize(
        'cfg', [{}, dict(auto_scale_lr=None), dict(auto_scale_lr=dict(enable=False))]
    )
    def test_needs_the_batch_size(self, cfg):
        with pytest.raises(ValueError, match='`auto_scale_lr` = ') as caught:
            launch.enable_auto_scale_lr(Config(cfg))
        assert 'auto_scale_lr=dict(base_batch_size=...)' in str(caught.value)


class TestStudentNames:
    @pytest.mark.parametrize(
        ('name', 'copy'),
        [
            ('student', 'student_run'),
            ('student_best', 'student_best_run'),
            ('student_ema', 'student_ema_run'),
            ('student_feature', 'student_feature'),
        ],
    )
    def test_the_copy_of_a_config_is_no_extracted_one(self, tmp_path, name, copy):
        leaf = tmp_path / f'{name}.py'
        leaf.write_text(f'_base_ = {str(CONFIGS / "vanilla/resnet8_digits.py")!r}')
        cfg = launch.read_config(arguments(leaf, work_dir=str(tmp_path / 'run')))
        launch.build_runner(cfg)
        assert [path.name for path in (tmp_path / 'run').glob('*.py')] == [f'{copy}.py']
        assert launch.read_config(arguments(leaf)).work_dir == f'work_dirs/{name}'


def save_checkpoint(path, cfg, text):
    """Write what a run of a config needs to go on, with a text as its config."""
    meta = dict(cfg=text, epoch=1, iter=2)
    weights = build(cfg.model).state_dict()
    content = dict(meta=meta, state_dict=weights, optimizer={}, message_hub={})
    torch.save(content, path)


class TestCheckCheckpoints:
    @pytest.mark.parametrize('resume', [True, False])
    @pytest.mark.parametrize('milestones', [[6, 9], [4, 5]])
    def test_a_resumed_run_keeps_its_schedule(
        self, tmp_path, monkeypatch, resume, milestones
    ):
        """mmengine restores the scheduler's state over whatever the config says."""
        texts = []
        monkeypatch.setattr(
            launch.resume, 'print_log', lambda text, *_: texts.append(text)
        )
        cfg = digits_config('vanilla/resnet8_digits.py')
        path = tmp_path / 'epoch_1.pth'
        save_checkpoint(path, cfg, cfg.pretty_text)
        cfg.param_scheduler.milestones = milestones
        cfg.load_from, cfg.resume = str(path), resume
        launch.check_checkpoints(cfg)
        assert len(texts) == (resume and milestones == [4, 5])
        if texts:
            assert '`param_scheduler` = ' in texts[0]
            assert '[4, 5]' in texts[0] and '[6, 9]' in texts[0]

    @pytest.mark.parametrize('end', ['', 'def (', '\0'])
    def test_the_config_in_a_checkpoint_is_never_run(self, tmp_path, end):
        cfg = digits_config('vanilla/resnet8_digits.py')
        path, trace = tmp_path / 'epoch_1.pth', tmp_path / 'trace'
        text = f"param_scheduler = open({str(trace)!r}, 'w')\n{end}"
        save_checkpoint(path, cfg, text)
        cfg.load_from, cfg.resume = str(path), True
        launch.check_checkpoints(cfg)
        assert not trace.exists()


class TestMentionBatch:
    @pytest.mark.parametrize(
        ('own', 'base', 'enable', 'ranks', 'warned'),
        [
            (20, 64, False, 1, False),
            (16, 64, False, 1, True),
            (256, 64, False, 1, True),
            (64, 512, False, 8, False),
            (16, 64, True, 1, False),
            (16, None, False, 1, False),
        ],
    )
    def test_a_rate_for_another_batch(
        self, monkeypatch, own, base, enable, ranks, warned
    ):
        texts = []
        monkeypatch.setattr(launch.checks, 'get_world_size', lambda: ranks)
        cfg = Config(
            dict(
                auto_scale_lr=dict(base_batch_size=base, enable=enable),
                train_dataloader=dict(batch_size=own),
                optim_wrapper=dict(),
            )
        )
        logger = SimpleNamespace(warning=texts.append)
        launch.mention_batch(SimpleNamespace(cfg=cfg, logger=logger))
        assert len(texts) == warned
        assert (
            not warned or f'{base} images' in texts[0] and '--auto-scale-lr' in texts[0]
        )


class TestChooseThreads:
    @pytest.fixture(autouse=True)
    def _nothing_is_set(self, monkeypatch):
        for name in (*launch.device.THREADS_SET_BY, 'LOCAL_WORLD_SIZE'):
            monkeypatch.delenv(name, raising=False)

    @pytest.mark.parametrize(
        ('cores', 'ranks', 'threads'),
        [(1, 1, 1), (2, 1, 1), (3, 1, 1), (8, 1, 4), (64, 4, 8), (2, 4, 1)],
    )
    def test_half_of_the_cores(self, on, monkeypatch, cores, ranks, threads):
        on('cpu')
        monkeypatch.setattr(launch.device, 'cores', lambda: cores)
        monkeypatch.setenv('LOCAL_WORLD_SIZE', str(ranks))
        text = launch.choose_threads()
        assert torch.get_num_threads() == threads
        assert f'{threads} thread(s)' in text and 'OMP_NUM_THREADS' in text

    @pytest.mark.parametrize('name', launch.device.THREADS_SET_BY)
    def test_a_choice_of_the_user_stays(self, on, monkeypatch, name):
        on('cpu')
        monkeypatch.setattr(launch.device, 'cores', lambda: 64)
        monkeypatch.setenv(name, '7')
        torch.set_num_threads(2)
        assert launch.choose_threads() is None
        assert torch.get_num_threads() == 2

    def test_a_gpu_is_left_alone(self, on, monkeypatch):
        on('cuda')
        monkeypatch.setattr(launch.device, 'cores', lambda: 64)
        assert launch.choose_threads() is None


class TestBuildRunner:
    def test_runner_type(self, monkeypatch):
        """Other Runners are the config's choice."""
        asked = []

        def build_one(cfg):
            asked.append(cfg)
            logger = logging.getLogger('test')
            return SimpleNamespace(logger=logger, model=None, hooks=[])

        monkeypatch.setattr(launch.runner.RUNNERS, 'build', build_one)
        cfg = Config(dict(runner_type='Runner'))
        launch.build_runner(cfg)
        assert asked == [cfg]

    def test_mmengine_runs_no_code_that_others_can_write(self, tmp_path, monkeypatch):
        tmp_path.chmod(0o777)
        monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path))
        with pytest.raises(RuntimeError, match='`TORCHINDUCTOR_CACHE_DIR` = .* chmod'):
            launch.build_runner(Config(dict(compile=True)))

    def test_the_log_names_the_copy_in_use(self, tmp_path, monkeypatch):
        lines = self.logged(monkeypatch)
        assert f'INFO cakd_mm {__version__}, {TOOLS.parent / "cakd_mm"}' in lines
        assert not [line for line in lines if line.startswith('WARNING')]
        tool = tmp_path / 'clone' / 'tools' / 'train.py'
        beside = tmp_path / 'clone' / 'cakd_mm'
        beside.mkdir(parents=True)
        (beside / '__init__.py').touch()
        monkeypatch.setattr(sys, 'argv', [str(tool)])
        (warning,) = [x for x in self.logged(monkeypatch) if x.startswith('WARNING')]
        for place in (tool, beside, TOOLS.parent / 'cakd_mm'):
            assert str(place) in warning
        assert f'pip install -e {tmp_path / "clone"}' in warning

    def logged(self, monkeypatch):
        lines = []

        class Lines(logging.Handler):
            def emit(self, record):
                lines.append(f'{record.levelname} {record.getMessage()}')

        logger = logging.Logger('test')
        logger.addHandler(Lines())
        runner = SimpleNamespace(logger=logger, model=None, hooks=[])
        monkeypatch.setattr(launch.runner.RUNNERS, 'build', lambda cfg: runner)
        launch.build_runner(Config(dict(runner_type='Runner')))
        return lines

    @pytest.mark.parametrize(
        ('options', 'key', 'like'),
        [
            (
                {
                    'default_hooks.warmup.type': 'DistillWarmupHook',
                    'default_hooks.warmup.epoch': 2,
                },
                'default_hooks.warmup.epoch',
                'epochs',
            ),
            (
                {'custom_hooks': [dict(type='DistillWarmupHook', epohs=3)]},
                'custom_hooks.0.epohs',
                'epochs',
            ),
            ({'train_cfg.max_epoch': 3}, 'train_cfg.max_epoch', 'max_epochs'),
            ({'train_cfg.residend': True}, 'train_cfg.residend', 'resident'),
            (
                {'train_dataloader.dataset.splitt': 'train'},
                'train_dataloader.dataset.splitt',
                'split',
            ),
            (
                {'optim_wrapper.optimizer.type': 'AdamW'},
                'optim_wrapper.optimizer.momentum',
                'foreach',
            ),
            (
                {'train_dataloader.dataset.type': 'CustomDataset'},
                'train_dataloader.dataset.split',
                'lazy_init',
            ),
        ],
    )
    def test_a_misspelt_argument(self, tmp_path, options, key, like):
        cfg = digits_config('cakd/demo_digits.py', **{'work_dir': str(tmp_path)})
        cfg.merge_from_dict(options)
        with pytest.raises(TypeError, match=f'`{re.escape(key)}` = .*{like!r}'):
            launch.build_runner(cfg)

    @pytest.mark.parametrize(
        'options',
        [
            {'default_hooks.terms.priority': 70},
            {'optim_wrapper.optimizer.type': torch.optim.SGD},
            {
                'custom_hooks': [
                    dict(type='DistillWarmupHook', epochs=1, priority='LOW'),
                    dict(type='StudentEMAHook', momentum=0.1, interval=2),
                ]
            },
            {
                'optim_wrapper.type': 'BF16OptimWrapper',
                'optim_wrapper.constructor': 'DefaultOptimWrapperConstructor',
                'optim_wrapper.paramwise_cfg': dict(norm_decay_mult=0.0),
            },
        ],
    )
    def test_what_mmengine_reads_itself_is_no_mistake(self, options):
        cfg = digits_config('cakd/demo_digits.py')
        cfg.merge_from_dict(options)
        launch.checks.check_own_arguments(cfg)

    @pytest.mark.parametrize('key', ['max_epochs', 'type'])
    def test_a_training_that_misses_something(self, key):
        cfg = digits_config('vanilla/resnet8_digits.py')
        del cfg.train_cfg[key]
        with pytest.raises(TypeError, match=rf'`train_cfg\.{key}` = None: .*missing'):
            launch.checks.check_own_arguments(cfg)

    def test_the_mistake_that_is_like_a_name_comes_first(self):
        cfg = digits_config('vanilla/resnet8_digits.py')
        cfg.val_cfg = dict(resident=True, tye='StudentTeacherValLoop')
        with pytest.raises(TypeError, match=r"`val_cfg\.tye` = .*Like it: 'type'"):
            launch.checks.check_own_arguments(cfg)

    def test_every_shipped_config_is_spelt_right(self):
        for path in sorted(CONFIGS.glob('*/*digits*.py')):
            launch.checks.check_own_arguments(Config.fromfile(path))

    @pytest.mark.parametrize(
        ('key', 'problem'),
        [('head.fc.bias', r'1 missing keys \(head.fc.bias\)'), (None, 'no such file')],
    )
    def test_checkpoint_to_score_must_fit(self, tmp_path, key, problem):
        cfg = digits_config('vanilla/resnet8_digits.py')
        cfg.work_dir = str(tmp_path)
        weights = build(cfg.model).state_dict()
        path = tmp_path / 'student.pth'
        if key is not None:
            del weights[key]
            torch.save(dict(state_dict=weights), path)
        with pytest.raises((ValueError, FileNotFoundError), match=problem) as caught:
            launch.build_test_runner(cfg, str(path))
        assert str(path) in str(caught.value)

    @pytest.mark.parametrize('main', [True, False])
    def test_one_rank_writes_the_scores(self, main, tmp_path, monkeypatch):
        cfg = digits_config('vanilla/resnet8_digits.py')
        cfg.work_dir, cfg.experiment_name = str(tmp_path), f'scores-{main}'
        path = tmp_path / 'student.pth'
        torch.save(dict(state_dict=build(cfg.model).state_dict()), path)
        monkeypatch.setattr(launch.runner, 'is_main_process', lambda: main)
        runner = launch.build_test_runner(cfg, str(path))
        assert runner.test()['accuracy/top1'] >= 0
        assert len(list(tmp_path.glob('*/*.json'))) == main

    @pytest.mark.parametrize(
        ('hooks', 'is_there'), [({}, True), (dict(packed_copies=None), False)]
    )
    def test_scores_are_packed_also_of_a_config_without_hooks(
        self, hooks, is_there, tmp_path
    ):
        cfg = digits_config('vanilla/resnet8_digits.py')
        cfg.work_dir, cfg.experiment_name = str(tmp_path), f'packed-{is_there}'
        cfg.default_hooks = hooks
        path = tmp_path / 'student.pth'
        torch.save(dict(state_dict=build(cfg.model).state_dict()), path)
        runner = launch.build_test_runner(cfg, str(path))
        kinds = [type(hook).__name__ for hook in runner.hooks]
        assert ('PackedCopiesHook' in kinds) == is_there


def test_the_dumped_config_holds_the_widths_of_the_nets(tmp_path):
    """What a checkpoint and the work dir say is what was built."""
    cfg = distill_config(tmp_path, images=32)
    cfg.work_dir = str(tmp_path / 'run')
    taps = dict(feature=dict(type='Tap', source='stage2'))
    cfg.model.distiller = dict(
        type='StrictDistiller',
        student_recorders=taps,
        teacher_recorders=taps,
        connectors=dict(fit=dict(type='MapConnector')),
        distill_losses=dict(loss_feature=dict(type='FeatureSquaredLoss')),
        loss_forward_mappings=dict(
            loss_feature=dict(
                preds_S=dict(recorder='feature', from_student=True, connector='fit'),
                preds_T=dict(recorder='feature', from_student=False),
            )
        ),
    )
    runner = launch.build_runner(cfg)
    connector = runner.model.distiller.connectors['fit'].conv_module
    widths = dict(
        in_channels=connector.in_channels, out_channels=connector.out_channels
    )
    (dumped,) = Path(cfg.work_dir).glob('*.py')
    for found in (runner.cfg, Config.fromfile(str(dumped))):
        fit = found.model.distiller.connectors.fit
        assert {key: fit[key] for key in widths} == widths
    assert 'in_channels' not in cfg.model.distiller.connectors.fit


def test_a_config_without_widths_is_dumped_once(tmp_path, monkeypatch):
    """Each layout of a config's text takes a third of a second."""
    dumped = []
    monkeypatch.setattr(Runner, 'dump_config', lambda runner: dumped.append(runner))
    cfg = distill_config(tmp_path, images=32)
    cfg.work_dir = str(tmp_path / 'run')
    launch.build_runner(cfg)
    assert len(dumped) == 1


def test_a_path_that_is_no_utf8():
    launch.require_utf8(Path('é'), 'work_dir')
    with pytest.raises(ValueError, match="`work_dir` = 'a.udcff': It has a byte"):
        launch.require_utf8(Path('a\udcff'), 'work_dir')


class TestShapes:
    """What mmengine takes for granted."""

    @pytest.mark.parametrize(
        ('key', 'value', 'named'),
        [
            ('default_hooks.finite', 7, 'default_hooks.finite'),
            ('default_hooks.finite.interval', 'abc', 'default_hooks.finite.interval'),
            ('default_hooks.finite.interval', 0, 'default_hooks.finite.interval'),
            ('default_hooks.finite.priority', 'abc', 'default_hooks.finite.priority'),
            ('default_hooks.mine', dict(interval=1), 'default_hooks.mine.type'),
            # By the key that the user has given it.
            (
                'default_hooks.mine',
                dict(type='FiniteLossHook', mode='never'),
                'default_hooks.mine.mode',
            ),
            ('custom_hooks', 'abc', 'custom_hooks'),
            ('custom_hooks', [None], 'custom_hooks.0'),
            (
                'custom_hooks',
                [dict(type='StudentEMAHook', momentum=None)],
                'custom_hooks.0.momentum',
            ),
            (
                'custom_hooks',
                [dict(type='StudentEMAHook', momentum=7.0)],
                'custom_hooks.0.momentum',
            ),
            ('train_cfg.type', 7, 'train_cfg.type'),
            ('train_cfg.resident', 'abc', 'train_cfg.resident'),
            ('train_dataloader.dataset', None, 'train_dataloader.dataset'),
            ('train_dataloader.dataset.split', 'x', 'train_dataloader.dataset.split'),
            ('optim_wrapper', 7, 'optim_wrapper'),
            ('data_preprocessor.mean', 'abc', 'data_preprocessor.mean'),
            ('model.teacher_ckpt', 7, 'model.teacher_ckpt'),
            ('model.type', None, 'model.type'),
            ('model', 7, 'model'),
        ],
        ids=str,
    )
    def test_named(self, key, value, named):
        cfg = Config.fromfile(CONFIGS / 'cakd/demo_digits.py')
        node = cfg
        *path, last = key.split('.')
        for name in path:
            node = node[name]
        node[last] = value
        expected = re.escape(f'`{named}` = ')
        with pytest.raises((KeyError, TypeError, ValueError), match=expected):
            launch.checks.check_own_arguments(cfg)


def test_a_student_whose_distiller_an_option_changes_is_read(tmp_path):
    """The Runner knows its file by a name that no file has."""
    path = tmp_path / 'student.py'
    path.write_text("_base_ = 'cakd_mm::cakd/demo_digits.py'\n")
    option = {'model.distiller.distill_losses.loss_cakd.gamma': 1.0}
    cfg = launch.read_config(arguments(path, cfg_options=option))
    assert file_of(cfg) == path
    assert Path(cfg.filename).name == 'student_run.py'
    assert unread_keys(cfg) == []
