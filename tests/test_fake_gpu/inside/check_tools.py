"""The tools on a GPU: trained, resumed, scored and drawn as on the host."""

from pathlib import Path

from fake_gpu import fake_gpu
from matplotlib.figure import Figure
from mmengine.device import utils as mmengine_device
from mmengine.fileio import load
from tiny import CONFIGS, save_teacher
from tools_inside import run_tool
from torch.testing import assert_close

from cakd_mm.utils.checkpoint import read_checkpoint

NAME = 'cakd/ablations/digits/digits_logit-double_network.py'
TRAIN = """
    train_dataloader.dataset.indices=64 train_dataloader.batch_size=32
    val_dataloader.dataset.indices=32 test_dataloader.dataset.indices=32
    default_hooks.logger.interval=1 model.teacher_ckpt=teacher.pth
"""


def walk(folder, monkeypatch):
    """Train one epoch, resume for another, and score the student.

    Returns the student's checkpoint and its scores of the images.
    """
    folder.mkdir()
    monkeypatch.chdir(folder)
    save_teacher(folder / 'teacher.pth')
    command = 'train.py', CONFIGS / NAME, '--work-dir', 'run'
    options = '--cfg-options', *TRAIN.split()
    run_tool(monkeypatch, *command, *options, 'train_cfg.max_epochs=1')
    run_tool(monkeypatch, *command, '--resume', *options, 'train_cfg.max_epochs=2')
    student = 'run/student.py', 'run/student.pth', '--out', 'scores.pkl'
    run_tool(monkeypatch, 'test.py', *student)
    scores = [one['pred_score'] for one in load('scores.pkl')]
    return read_checkpoint('run/student.pth', '', ''), scores


def test_a_walk_ends_where_the_hosts_ends(tmp_path, monkeypatch):
    with fake_gpu(draws_apart=False):
        found, scores = walk(tmp_path / 'gpu', monkeypatch)
        # What is drawn is computed on the device, and put on paper by matplotlib.
        monkeypatch.setattr(Figure, 'savefig', lambda _, file, **__: Path(file).touch())
        run_tool(monkeypatch, 'analysis_tools/plot_cakd.py', 'run', '--out', 'drawn')
    assert len([*tmp_path.glob('gpu/drawn/*.png')]) >= 2
    with monkeypatch.context() as patch:
        patch.setattr(mmengine_device, 'DEVICE', 'cpu')
        wanted, expected = walk(tmp_path / 'host', monkeypatch)
    assert_close(found['state_dict'], wanted['state_dict'], rtol=1e-3, atol=1e-4)
    assert_close(scores, expected, rtol=1e-3, atol=1e-4)
    assert found['meta']['scores'] == wanted['meta']['scores']
