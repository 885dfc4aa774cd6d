"""One's own images, and variations of that run, as the pages have them."""

import json
import os
import re
import shlex
import subprocess
import sys
from itertools import islice

import cv2
import torch
from mmengine.config import Config
from mmengine.visualization import Visualizer
from pages import ROOT, blocks
from sklearn.datasets import load_digits

from cakd_mm.cli import main

PAGES = [ROOT / 'docs/guides/own_images_by_hand.md', ROOT / 'docs/guides/variations.md']
TEXT = ''.join(page.read_text(encoding='utf-8') for page in PAGES)
BLOCKS = re.findall(r'```(python|bash)\n(.*?)```', TEXT, flags=re.DOTALL)
CLASSES = ('zero', 'one', 'two', 'three', 'four')
FILES = ['data', 'teacher', 'student', 'alone', 'mixup', 'adamw', 'student_feature']
# Of each class, to train with and to score; a step takes ten.
IMAGES = dict(train=12, val=10)
STEPS = IMAGES['train'] * len(CLASSES) // 10
# A process of its own imports for seconds. One shows what all commands need.
ALONE_IN_A_PROCESS = 'cakd-mm extract student.py work_dirs/student/epoch_9.pth'
# The student of features trains no longer than what is asserted of it.
OPTIONS = {
    'cakd-mm train student_feature.py': ['--cfg-options', 'train_cfg.max_epochs=2']
}


def write_images(folder):
    """Five classes of digit scans, as somebody's folders of images."""
    digits = load_digits(n_class=5)
    for label, name in enumerate(CLASSES):
        scans = (digits.images[digits.target == label] * 15.9).astype('uint8')
        scans = iter(scans)
        for part, count in IMAGES.items():
            place = folder / 'data' / 'flowers' / part / name
            place.mkdir(parents=True)
            for index, scan in enumerate(islice(scans, count)):
                cv2.imwrite(str(place / f'{index}.png'), cv2.resize(scan, (32, 32)))


def in_a_process(*words):
    """Run a command in a process of its own, which finds only this checkout."""
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    command = [sys.executable, *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f'{words}\n{done.stdout[-3000:]}{done.stderr[-3000:]}'
    return done.stdout


def run_bash(block):
    """Run each line; ``cakd-mm`` in this process, but for one."""
    for line in block.strip().splitlines():
        program, *words = shlex.split(line)
        assert program == 'cakd-mm', line
        if line == ALONE_IN_A_PROCESS:
            in_a_process('-m', 'cakd_mm.cli', *words)
        else:
            Visualizer._instance_dict.clear()
            main([*words, *OPTIONS.get(line, [])])


ALONE = """
import sys
assert not {'cakd_mm', 'mmrazor'} & set(sys.modules), 'not mmpretrain alone'
"""


def walk(folder):
    """Do what the page says, from top to bottom; return names and what was printed.

    The last blocks are Python's, and run together where mmpretrain is alone.
    """
    names, last = [], []
    for language, code in BLOCKS:
        named = re.match(r'# (\w+)\.py\n', code)
        if language == 'bash':
            run_bash(code)
        elif named:
            names.append(named[1])
            (folder / f'{named[1]}.py').write_text(code)
        else:
            last.append(code)
    last += [*blocks('docs/guides/students_out.md'), ALONE]
    # mmpretrain alone cannot be imported beside pycocotools and this transformers.
    hidden = 'import mmpretrain.utils.dependency as d; d.WITH_MULTIMODAL = False'
    return names, in_a_process('-c', '\n'.join([hidden, *last]))


def scalars(run, key):
    """Return ``{step: value}`` of each log of a run, the oldest first."""
    logs = []
    for path in sorted(run.glob('*/vis_data/scalars.json')):
        lines = map(json.loads, path.read_text().splitlines())
        logs.append({line['step']: line[key] for line in lines if key in line})
    return logs


def read(path):
    return torch.load(path, weights_only=False)


def check_runs(runs):
    """Everything was trained, and has learned something."""
    assert read(runs / 'teacher' / 'epoch_6.pth')['meta']['epoch'] == 6
    (teacher,) = scalars(runs / 'teacher', 'accuracy/top1')
    assert teacher[6] > 40  # five classes: chance is 20
    first = scalars(runs / 'student', 'accuracy/top1')[0]
    assert list(first) == list(range(1, 9))
    assert max(first[step] for step in (6, 7, 8)) > 50
    (feature,) = scalars(runs / 'student_feature', 'distill.loss_feature')
    assert min(feature.values()) > 0
    for name, epochs in (('alone', 8), ('student_feature', 2)):
        scores = scalars(runs / name, 'accuracy/top1')[0]
        assert list(scores) == list(range(1, epochs + 1))


def check_compared(folder):
    """The same student and schedule, with and without its teacher."""
    table = (folder / 'compared' / 'sweep.md').read_text()
    rows = [line.split('|')[1].strip() for line in table.splitlines() if '|' in line]
    assert rows[2:] == ['student', 'alone']
    for key in ('lr', 'weight_decay', 'milestones', 'max_epochs', 'batch_size'):
        assert key not in table


def check_resumed(runs):
    """It went on after epoch 8, and its last checkpoint was scored."""
    _, rest = scalars(runs / 'student', 'accuracy/top1')
    assert [step for step in rest if step > 8] == [9, 10]
    assert min(scalars(runs / 'student', 'loss')[1]) > 8 * STEPS
    tested = sorted((runs / 'student').glob('*/*.json'))[-1]
    assert json.loads(tested.read_text())['accuracy/top1'] == rest[10]
    assert (runs / 'student' / 'student_run.py').is_file()  # no extracted one
    last = read(runs / 'student' / 'epoch_10.pth')['meta']
    assert (last['epoch'], last['iter']) == (10, 10 * STEPS)


def check_variations(runs):
    """Each variation was what it says."""
    optimizer = read(runs / 'adamw' / 'epoch_1.pth')['optimizer']
    assert 'betas' in optimizer['param_groups'][0]
    mixup = Config.fromfile(runs / 'mixup' / 'mixup.py').data_preprocessor
    assert mixup.batch_augments.augments[0].type == 'Mixup'


def check_students(runs):
    """Plain mmpretrain, five outputs, and the names of the folders."""
    for name in ('student', 'epoch_9_student'):
        student = read(runs / 'student' / f'{name}.pth')
        assert student['state_dict']['head.fc.weight'].shape == (5, 128)
        assert tuple(student['meta']['dataset_meta']['classes']) == tuple(
            sorted(CLASSES)
        )
        assert 'cakd_mm' not in (runs / 'student' / f'{name}.py').read_text()
    assert student['meta']['epoch'] == 9


def check_printed(folder, printed):
    """A class by its name, the same from ONNX, which has five scores."""
    name = re.search(r'four/0\.png (\w+) 0\.\d+', printed)[1]
    assert name in CLASSES
    scores = re.search(r'five scores: \[\[(.*?)\]\] (\w+)', printed, flags=re.DOTALL)
    assert len(scores[1].split()) == 5
    assert scores[2] == name
    for suffix in ('.onnx', '.pt2', '.json'):
        assert (folder / 'work_dirs/student/student').with_suffix(suffix).is_file()


def test_the_page(tmp_path, monkeypatch):
    folder = tmp_path / 'my images'
    write_images(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', sys.argv)
    names, printed = walk(folder)
    assert names == FILES
    runs = folder / 'work_dirs'
    check_runs(runs)
    check_compared(folder)
    check_resumed(runs)
    check_variations(runs)
    check_students(runs)
    check_printed(folder, printed)
