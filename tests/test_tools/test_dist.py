"""The launch scripts, several processes without a GPU, and the ImageNet command."""

import json
import os
import runpy
import socket
import subprocess
import sys
import traceback

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image
from ranks import run_to_the_end
from tiny import CONFIGS, save_teacher
from tools_inside import TOOLS, run_tool, torchvision_net

from cakd_mm.datasets import Digits, ResidentDataset

# isort: split
from mmpretrain import get_model

ROOT = CONFIGS.parent
METRIC = 'accuracy/top1'


def environment(**changes):
    """Return the environment of processes without a GPU and with a free port."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    return {
        **{k: v for k, v in os.environ.items() if k not in ('RANK', 'LOCAL_RANK')},
        'PYTHON': sys.executable,
        'PYTHONPATH': str(ROOT),
        'PYTHONWARNINGS': 'ignore',
        'CUDA_VISIBLE_DEVICES': '',
        'OMP_NUM_THREADS': '1',
        'PORT': str(port),
        **changes,
    }


def start(script, *arguments, cwd, **variables):
    """Start a script of ours with the variables of :func:`environment`."""
    return subprocess.Popen(
        [str(TOOLS / script), *map(str, arguments)],
        cwd=cwd,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Return what a script has printed when it has ended well."""
    printed, errors = process.communicate(timeout=200)
    assert process.returncode == 0, printed[-500:] + errors[-3000:]
    return printed


def shell(script, *arguments, cwd, **changes):
    """Run a script of ours and return what it printed."""
    return finish(start(script, *arguments, cwd=cwd, **environment(**changes)))


def load(path):
    return torch.load(path, map_location='cpu', weights_only=False)


def log_of(work_dir):
    """Return the entries of the one run in a work dir."""
    [file] = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in file.open()]


@HOOKS.register_module()
class RankProbe(Hook):
    """Each rank writes down what it is and what it has."""

    priority = 'LOWEST'

    def before_train(self, runner):
        self.indices, self.images, self.steps = [], [], 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.indices += [sample.sample_idx for sample in data_batch['data_samples']]
        self.images += data_batch['inputs']
        self.steps += 1

    def after_train(self, runner):
        model = runner.model.module
        torch.save(
            dict(
                backend=dist.get_backend(),
                world=dist.get_world_size(),
                wrapper=type(runner.model).__name__,
                device=str(next(model.parameters()).device),
                indices=self.indices,
                images=torch.stack(self.images),
                steps=self.steps,
                weights=dict(model.student.named_parameters()),
            ),
            f'{runner.work_dir}/rank{dist.get_rank()}.pth',
        )


DEMO = CONFIGS / 'cakd/demo_digits.py'
SMALL = (
    'train_dataloader.dataset.indices=64',
    'train_dataloader.batch_size=16',
    'val_dataloader.dataset.indices=71',
    'test_dataloader.dataset.indices=71',
    'train_cfg.max_epochs=1',
)


def one_rank(rank, folder, port, words):
    """Run a tool as the process that the launcher starts; its log is in a file."""
    os.chdir(folder)
    sys.stdout = sys.stderr = (folder / f'log{rank}').open('w', buffering=1)
    ranks = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_PORT=port)
    os.environ.update({name: str(value) for name, value in ranks.items()})
    os.environ['MASTER_ADDR'] = '127.0.0.1'
    sys.argv = [*map(str, words), '--launcher', 'pytorch']
    status = 1
    try:
        runpy.run_path(sys.argv[0], run_name='__main__')
        status = 0
    except BaseException:
        traceback.print_exc()
    dist.barrier()
    os._exit(status)  # torch 2.5 may deadlock when it takes a gloo group apart


def on_two(folder, tool, *words):
    """Run a tool on two ranks, which are forked, because none has to import anew."""
    port = environment()['PORT']
    words = (TOOLS / tool, *words)
    try:
        run_to_the_end(lambda rank: one_rank(rank, folder, port, words))
    except AssertionError:
        for rank in range(2):
            print((folder / f'log{rank}').read_text()[-3000:])
        raise


def train_on_two(folder, name, *words):
    """Train the demo on two ranks.

    Returns:
        tuple: The work dir, and what each rank wrote down.
    """
    teacher = save_teacher(folder / 'teacher.pth')
    config = folder / 'leaf.py'
    config.write_text(
        f"_base_ = {str(DEMO)!r}\ncustom_hooks = [dict(type='RankProbe')]"
    )
    split = words.index('--cfg-options') if '--cfg-options' in words else len(words)
    options = ('--cfg-options', *SMALL, f'model.teacher_ckpt={teacher}')
    words = (*words[:split], *options, *words[split + 1 :])
    on_two(folder, 'train.py', config, '--work-dir', name, *words)
    return folder / name, [load(folder / name / f'rank{rank}.pth') for rank in (0, 1)]


def test_two_processes_train_and_score_digits(tmp_path):
    out, ranks = train_on_two(tmp_path, 'out', '--amp')
    for rank in ranks:
        assert (rank['backend'], rank['world'], rank['steps']) == ('gloo', 2, 2)
        assert rank['wrapper'] == 'MMDistributedDataParallel'
        assert rank['device'] == 'cpu'
    # Each saw its half of the images, and both made the same steps.
    halves = [set(rank['indices']) for rank in ranks]
    assert len(halves[0]) == len(halves[1]) == 32
    assert halves[0] | halves[1] == set(range(64))
    first, second = (rank['weights'] for rank in ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    # One of them wrote one checkpoint, with these weights.
    assert [file.name for file in out.glob('epoch_*.pth')] == ['epoch_1.pth']
    saved = load(out / 'epoch_1.pth')['state_dict']
    for name, value in first.items():
        assert torch.equal(saved[f'architecture.{name}'], value)
    assert not [name for name in saved if name.startswith('teacher.')]
    effective = Config.fromfile(out / 'leaf.py', import_custom_modules=False)
    assert effective.optim_wrapper.type == 'BF16OptimWrapper'
    assert log_of(out)[0]['distill.loss_cakd'] > 0

    # Scored by two processes, and by one: each image counts once.
    (tmp_path / 'teacher.pth').unlink()
    words = (DEMO, 'out/epoch_1.pth', '--work-dir', 'two', '--cfg-options', *SMALL)
    on_two(tmp_path, 'test.py', *words)
    [two] = (tmp_path / 'two').glob('*/*.json')
    student = get_model(str(out / 'student.py'), pretrained=str(out / 'student.pth'))
    assert json.loads(two.read_text())[METRIC] == pytest.approx(score(student, DEMO))


@pytest.mark.usefixtures('traced_only')
def test_two_processes_share_resident_images_and_train_compiled(tmp_path):
    """Each trains on its half, in the windows that one process would see."""
    options = ('train_cfg.resident=True', 'val_cfg.type=ResidentValLoop')
    options = ('--cfg-options', *options, 'optim_wrapper.optimizer.lr=0.001')
    out, ranks = train_on_two(tmp_path, 'plain', *options)
    assert sorted(ranks[0]['indices'] + ranks[1]['indices']) == list(range(64))
    assert [rank['steps'] for rank in ranks] == [2, 2]
    pipeline = Config.fromfile(DEMO).train_pipeline
    alone = ResidentDataset(Digits(indices=64, pipeline=pipeline), seed=0)
    for rank in ranks:
        expected = alone.__getitems__(rank['indices'])['inputs']
        assert torch.equal(rank['images'], expected)
    first, second = (rank['weights'] for rank in ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert METRIC in log_of(out)[-1]
    # Everything that is lossless gives the same weights up to rounding.
    fast = (
        'model.teacher_runtime.compile=False',
        'default_hooks.student_runtime.type=StudentRuntimeHook',
    )
    other, _ = train_on_two(tmp_path, 'fast', *options, *fast)
    plain, found = (load(run / 'epoch_1.pth')['state_dict'] for run in (out, other))
    assert plain.keys() == found.keys()
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-3, msg=name)
    assert not all(torch.equal(found[name], plain[name]) for name in plain)


@torch.no_grad()
def score(model, config):
    """Return the percentage of the first 71 test scans that a model gets right."""
    from mmpretrain.datasets import build_dataset

    pipeline = Config.fromfile(config, import_custom_modules=False).test_pipeline
    dataset = build_dataset(
        dict(type='Digits', split='test', indices=71, pipeline=pipeline)
    )
    samples = [dataset[index] for index in range(71)]
    batch = dict(
        inputs=[sample['inputs'] for sample in samples],
        data_samples=[sample['data_samples'] for sample in samples],
    )
    found = model.eval().test_step(batch)
    right = [int(sample.pred_label) == int(sample.gt_label) for sample in found]
    return 100 * sum(right) / 71


# --- The user's own command --------------------------------------------------


def imagenet(root, size=72):
    """Make an ImageNet layout without annotation files: 1,000 folders a split."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (16, size, size, 3), generator=generator)
    scans = []
    for index, array in enumerate(pixels.to(torch.uint8).numpy()):
        file = root / f'{index}.JPEG'
        root.mkdir(exist_ok=True)
        Image.fromarray(array).save(file, 'JPEG')
        scans.append(file.read_bytes())
        file.unlink()
    for split in ('train', 'val'):
        for index in range(1000):
            folder = root / split / f'n{index:08d}'
            folder.mkdir(parents=True)
            (folder / f'{split}_{index}.JPEG').write_bytes(scans[index % 16])
    return root


def test_imagenet_command_on_two_machines_without_a_shared_disk(tmp_path, monkeypatch):
    """``tools/dist_train.sh configs/cakd/r34_r18_in1k.py 1`` on each, two steps."""
    published, teacher = tmp_path / 'torchvision.pth', tmp_path / 'teacher.pth'
    torch.save(torchvision_net('resnet34').state_dict(), published)
    tool = 'model_converters/from_torchvision.py'
    run_tool(monkeypatch, tool, published, teacher, '--arch', 'resnet34')
    data = imagenet(tmp_path / 'imagenet')
    options = [f'model.teacher_ckpt={teacher}', 'train_cfg.max_epochs=1']
    options += ['train_dataloader.dataset.indices=8', 'train_dataloader.batch_size=2']
    for part, scale in (('train', 64), ('val', 72), ('test', 72)):
        loader = f'{part}_dataloader'
        options += [f'{loader}.dataset.data_root={data}', f'{loader}.num_workers=1']
        options += [f'{loader}.dataset.pipeline.1.scale={scale}']
        if part != 'train':
            options += [f'{loader}.dataset.pipeline.2.crop_size=64']
            options += [f'{loader}.dataset.indices=4']
    command = ('dist_train.sh', CONFIGS / 'cakd/r34_r18_in1k.py', 1)
    command += ('--work-dir', 'out', '--cfg-options', *options)
    disks = [tmp_path / f'disk{rank}' for rank in range(2)]
    variables, nodes = environment(NNODES='2'), []
    for rank, disk in enumerate(disks):
        disk.mkdir()
        variables['NODE_RANK'] = str(rank)
        nodes.append(start(*command, cwd=disk, **variables))
    for node in nodes:
        finish(node)
    # The first one writes all there is.
    assert not [*disks[1].rglob('*.pth')] + [*disks[1].rglob('student*')]
    out = disks[0] / 'out'
    checkpoint = load(out / 'epoch_1.pth')
    assert checkpoint['meta']['iter'] == 2
    entries = log_of(out)
    assert entries[0]['distill.loss_cakd'] > 0
    assert entries[0]['student.loss'] > 0
    assert {METRIC, 'accuracy/top5'} <= entries[-1].keys()
    assert entries[0]['lr'] == 0.2

    # The student is plain: it needs nothing but mmpretrain.
    config = Config.fromfile(out / 'student.py')
    assert 'custom_imports' not in config
    assert 'cakd' not in config.pretty_text.lower()
    assert 'mmrazor' not in config.pretty_text
    student = get_model(config, pretrained=str(out / 'student.pth'))
    assert student.head.num_classes == 1000
    for name, value in student.state_dict().items():
        assert torch.equal(value, checkpoint['state_dict'][f'architecture.{name}'])


# --- What the scripts pass on ------------------------------------------------


@pytest.fixture
def spy(tmp_path):
    """Put programs on the path that print their arguments, one per line."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name in ('srun', 'python'):
        (folder / name).write_text(f'#!/bin/sh\necho {name}\nprintf "%s\\n" "$@"\n')
        (folder / name).chmod(0o755)
    return {'PATH': f'{folder}{os.pathsep}{os.environ["PATH"]}'}


def clear(spy, **changes):
    """Return variables that set what is given and leave the rest to the scripts."""
    names = ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT', 'GPUS', 'GPUS_PER_NODE')
    names += ('CPUS_PER_TASK', 'SRUN_ARGS', 'PYTHON', 'MAX_RESTARTS')
    return {**spy, **dict.fromkeys(names, ''), **changes}


@pytest.mark.parametrize(
    ('script', 'positional', 'program', 'checkpoint'),
    [
        ('dist_train.sh', ['a.py', '4'], 'train.py', []),
        ('dist_test.sh', ['a.py', 'b.pth', '4'], 'test.py', ['b.pth']),
    ],
)
@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ({}, ('1', '0', '127.0.0.1', '29500', '0')),
        (
            dict(
                NNODES='2',
                NODE_RANK='1',
                MASTER_ADDR='10.0.0.7',
                PORT='1234',
                MAX_RESTARTS='3',
            ),
            ('2', '1', '10.0.0.7', '1234', '3'),
        ),
    ],
)
def test_dist_scripts(
    tmp_path, spy, script, positional, program, checkpoint, given, expected
):
    options = ['--cfg-options', 'a=b c', 'd="e f"']
    printed = shell(
        script, *positional, *options, cwd=tmp_path, **clear(spy, **given)
    ).splitlines()
    nodes, rank, address, port, restarts = expected
    assert printed == [
        *('python', str(TOOLS / 'torchrun.py')),
        *(f'--nnodes={nodes}', f'--node_rank={rank}'),
        *(f'--master_addr={address}', f'--master_port={port}', '--nproc_per_node=4'),
        *([f'--max-restarts={restarts}'] if script == 'dist_train.sh' else []),
        *(str(TOOLS / program), 'a.py', *checkpoint, '--launcher', 'pytorch'),
        *options,
    ]


@pytest.mark.parametrize(
    ('script', 'positional', 'tail'),
    [
        (
            'slurm_train.sh',
            ['part', 'job', 'a.py', 'work dir'],
            ['train.py', 'a.py', '--work-dir', 'work dir'],
        ),
        (
            'slurm_test.sh',
            ['part', 'job', 'a.py', 'b c.pth'],
            ['test.py', 'a.py', 'b c.pth'],
        ),
    ],
)
@pytest.mark.parametrize(
    ('given', 'expected', 'extra'),
    [
        ({}, ('8', '8', '5'), []),
        (
            dict(GPUS='4', GPUS_PER_NODE='2', CPUS_PER_TASK='3', SRUN_ARGS='-x n1 -v'),
            ('4', '2', '3'),
            ['-x', 'n1', '-v'],
        ),
    ],
)
def test_slurm_scripts(tmp_path, spy, script, positional, tail, given, expected, extra):
    options = ['--cfg-options', 'a=b c']
    printed = shell(
        script, *positional, *options, cwd=tmp_path, **clear(spy, **given)
    ).splitlines()
    gpus, per_node, cpus = expected
    assert printed == [
        *('srun', '-p', 'part', '--job-name=job', f'--gres=gpu:{per_node}'),
        *(f'--ntasks={gpus}', f'--ntasks-per-node={per_node}'),
        *(f'--cpus-per-task={cpus}', '--kill-on-bad-exit=1', *extra),
        *('python', '-u', str(TOOLS / tail[0]), *tail[1:]),
        *('--launcher', 'slurm', *options),
    ]


@pytest.mark.parametrize(
    'name',
    sorted(path.name for path in TOOLS.glob('*_t*.sh')),  # of trains and tests
)
def test_scripts_show_their_usage(tmp_path, name):
    script = TOOLS / name
    done = subprocess.run([script, 'one'], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f'usage: {script} ')
    assert 'CONFIG' in done.stderr
