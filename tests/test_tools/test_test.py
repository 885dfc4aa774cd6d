"""``tools/test.py --out`` against a direct forward of the same images."""

import pickle
import runpy
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain import get_model
from tiny import CONFIGS, build

CONFIG = """
_base_ = '{base}'
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root='{root}',
        with_label={with_label},
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    ),
)
{rest}
"""


@pytest.fixture
def images(tmp_path):
    """Write ten images, in folders named as classes, and return their pixels."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        folder = tmp_path / 'images' / f'class_{i % 2}'
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f'{i}.png'), image)
    return pixels


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = build(Config.fromfile(CONFIGS / 'vanilla/resnet20_tinyimagenet.py').model)
    model.init_weights()
    torch.nn.init.normal_(model.head.fc.weight, std=0.3)
    path = tmp_path / 'weights.pth'
    torch.save(dict(meta={}, state_dict=model.state_dict()), path)
    return path


@pytest.mark.parametrize('with_label', [True, False])
def test_predictions_of_a_folder_equal_a_direct_forward(
    tmp_path, root, monkeypatch, images, checkpoint, with_label
):
    base = (CONFIGS / 'vanilla/resnet20_tinyimagenet.py').as_posix()
    rest = '' if with_label else 'test_evaluator = []'
    config, out = tmp_path / 'config.py', tmp_path / 'out.pkl'
    text = CONFIG.format(
        base=base, root=tmp_path / 'images', with_label=with_label, rest=rest
    )
    config.write_text(text)
    tool = str(root / 'tools/test.py')
    command = [tool, str(config), str(checkpoint), '--out', str(out)]
    monkeypatch.setattr(sys, 'argv', [*command, '--work-dir', str(tmp_path / 'run')])
    runpy.run_path(tool, run_name='__main__')
    found = {item['img_path']: item for item in pickle.loads(out.read_bytes())}
    assert len(found) == 10

    model = get_model(base, pretrained=str(checkpoint)).eval()
    bgr = torch.from_numpy(images).permute(0, 3, 1, 2)
    mean = torch.tensor([122.54, 114.38, 101.56]).view(1, 3, 1, 1)
    std = torch.tensor([64.30, 62.43, 66.05]).view(1, 3, 1, 1)
    with torch.no_grad():
        logits = model((bgr.flip(1).float() - mean) / std, mode='tensor')
    assert logits.std() > 0.1
    for i, row in enumerate(logits.softmax(dim=1)):
        item = found[str(tmp_path / 'images' / f'class_{i % 2}' / f'{i}.png')]
        torch.testing.assert_close(item['pred_score'], row, rtol=1e-4, atol=1e-6)
        assert item['pred_label'].item() == row.argmax().item()
        assert ('gt_label' in item) == with_label
