"""The tutorial notebook: its code runs, and the docs build is what fills it."""

import json

import matplotlib.pyplot as plt
import pytest
from mmengine.runner import Runner
from pages import ROOT

NOTEBOOK = ROOT / 'docs/tutorials/distil_digits.ipynb'


@pytest.fixture(scope='module')
def cells():
    """Return the cells that hold code."""
    found = json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']
    return [cell for cell in found if cell['cell_type'] == 'code']


def test_no_outputs_are_committed(cells):
    assert len(cells) > 10
    assert all(not cell['outputs'] for cell in cells)
    assert all(cell['execution_count'] is None for cell in cells)


def test_all_cells_run(cells, monkeypatch, tmp_path):
    """On few images, and as many epochs, whose checkpoints the cells name."""
    genuine = Runner.from_cfg

    def shortened(cfg):
        cfg.train_dataloader.dataset.indices = 32
        cfg.val_dataloader.dataset.indices = 64
        cfg.train_cfg.val_interval = cfg.train_cfg.max_epochs
        cfg.default_hooks.checkpoint.interval = cfg.train_cfg.max_epochs
        return genuine(cfg)

    monkeypatch.setattr(Runner, 'from_cfg', shortened)
    names: dict = {}
    try:
        for cell in cells:
            code = ''.join(cell['source']).replace('folder.name', repr(str(tmp_path)))
            exec(code, names)
    finally:
        plt.close('all')
    assert (tmp_path / 'cakd/student.pth').is_file()
    assert [*names['pictures']] == ['terms.png', 'clusters.png', 'images.png']
    right = {
        name: 100 * (names[name] == names['labels'])[:64].mean()
        for name in ('teacher', 'alone', 'cakd')
    }
    scores = {name: names['scores'](name)[1][-1] for name in right}
    # mmpretrain alone reads the scans as the run has scored them.
    assert right == pytest.approx(scores, abs=0.01)
