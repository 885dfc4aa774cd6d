"""Pictures of what nets make of test scenes. The nets are random, and tiny."""

from types import SimpleNamespace

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmrazor.registry import MODELS
from tiny import CONFIGS

from cakd_mm.datasets import DigitScenes
from cakd_mm.visualization import predictions

META = {'classes': ('a', 'b', 'c'), 'palette': [[0, 0, 0], [9, 8, 7], [1, 2, 3]]}


@pytest.fixture
def axis():
    figure, axis = plt.subplots()
    yield axis
    plt.close(figure)


def test_a_map_has_the_colours_of_its_classes(axis):
    truth, found = torch.tensor([[[0, 2]]]), torch.tensor([[[1, 2]]])
    sample = BaseDataElement(
        gt_sem_seg=PixelData(data=truth), pred_sem_seg=PixelData(data=found)
    )
    for is_truth, wanted in (
        (True, [[0, 0, 0], [1, 2, 3]]),
        (False, [[9, 8, 7], [1, 2, 3]]),
    ):
        predictions._draw(axis, sample, is_truth, META, 0.3)
        assert axis.get_images()[-1].get_array().tolist() == [wanted]


def test_boxes_of_truth_and_of_likely_predictions(axis):
    found = InstanceData(
        bboxes=torch.tensor([[1.0, 2.0, 4.0, 8.0], [0.0, 0.0, 5.0, 5.0]]),
        labels=torch.tensor([2, 0]),
        scores=torch.tensor([0.5, 0.49]),
    )
    sample = BaseDataElement(pred_instances=found)
    sample.set_metainfo({'instances': [dict(bbox=[3, 1, 6, 2], bbox_label=1)]})
    for is_truth, corner, size, name in (
        (True, (2.5, 0.5), (3, 1), 'b'),
        (False, (0.5, 1.5), (3, 6), 'c'),
    ):
        predictions._draw(axis, sample, is_truth, META, 0.5)
        box, text = axis.patches[-1], axis.texts[-1]
        # The edge of a pixel lies half a pixel before its centre.
        assert (box.get_xy(), (box.get_width(), box.get_height())) == (corner, size)
        assert text.get_text() == name
        assert box.get_edgecolor() == to_rgba(text.get_color())
    assert len(axis.patches) == 2


@pytest.mark.parametrize('task', ['seg', 'det'])
def test_the_first_test_scenes_go_through_the_net_that_is_loaded(tmp_path, task):
    pytest.importorskip(dict(seg='mmseg', det='mmdet')[task])
    leaf = dict(seg='fpn-r18w8_scenes-seg.py', det='gfl-r18w8_scenes-det.py')[task]
    cfg = Config.fromfile(CONFIGS / 'vanilla' / leaf)
    cfg.test_dataloader.dataset.scenes = 3
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        net = MODELS.build(cfg.model)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    torch.save(dict(meta={}, state_dict=net.state_dict()), tmp_path / 'net.pth')
    images, samples, meta = predictions.predict(cfg, tmp_path / 'net.pth', 2)
    assert len(images) == len(samples) == 2
    own = cfg.test_dataloader.dataset
    drawn = {key: own[key] for key in ('objects', 'sides') if key in own}
    scenes = DigitScenes(split='test', scenes=3, **drawn)
    for index, (image, sample) in enumerate(zip(images, samples, strict=True)):
        assert np.array_equal(image, scenes[index]['img'])
        pixels = (torch.from_numpy(image).permute(2, 0, 1)[None].float() - 75.9) / 44.0
        if task == 'seg':
            scores = net.eval()(pixels, mode='tensor')
            scores = torch.nn.functional.interpolate(
                scores, (64, 64), mode='bilinear', align_corners=False
            )
            agree = scores.argmax(1) == sample.pred_sem_seg.data
            assert agree.float().mean() > 0.999
            assert meta['classes'][0] == 'background'
        else:
            assert sample.pred_instances.scores.isfinite().all()
            assert len(meta['classes']) == 10
    # The config of the caller stays as it is.
    assert 'data_preprocessor' not in cfg.model


def test_a_picture_has_a_column_for_each_net(tmp_path, monkeypatch):
    asked = []

    def predict(cfg, checkpoint, count):
        asked.append((cfg.name, checkpoint, count))
        data = PixelData(data=torch.full((1, 4, 4), len(asked)))
        truth = PixelData(data=torch.zeros(1, 4, 4, dtype=torch.int64))
        sample = BaseDataElement(gt_sem_seg=truth, pred_sem_seg=data)
        image = np.full((4, 4, 3), 200, np.uint8)
        return [image] * count, [sample] * count, META

    def read(path):
        return SimpleNamespace(name=path)

    drawn = []
    monkeypatch.setattr(predictions, 'predict', predict)
    monkeypatch.setattr(predictions.Config, 'fromfile', read)
    monkeypatch.setattr(predictions.plt, 'close', drawn.append)
    nets = {'one': ('one.py', 'one.pth'), 'two': ('two.py', 'two.pth')}
    path = predictions.draw_predictions(nets, tmp_path / 'x.png', count=3)
    assert asked == [('one.py', 'one.pth', 3), ('two.py', 'two.pth', 3)]
    [figure] = drawn
    axes = np.array(figure.axes).reshape(3, 4)
    assert [axis.get_title() for axis in axes[0]] == ['image', 'truth', 'one', 'two']
    for row in axes:
        pixels = [axis.get_images()[-1].get_array()[0, 0].tolist() for axis in row]
        assert pixels == [[200] * 3, [0] * 3, [9, 8, 7], [1, 2, 3]]
    assert matplotlib.image.imread(path).size > 0
    plt.close(figure)


@pytest.mark.parametrize(
    ('asked', 'shown', 'drawn'), [({}, 0.3, 2), ({'least_score': 0.6}, 0.6, 1)]
)
def test_the_title_says_from_which_score_boxes_are_drawn(
    tmp_path, monkeypatch, asked, shown, drawn
):
    found = InstanceData(
        bboxes=torch.tensor([[1.0, 2.0, 4.0, 8.0]] * 3),
        labels=torch.tensor([0, 1, 2]),
        scores=torch.tensor([0.7, 0.31, 0.29]),
    )
    sample = BaseDataElement(pred_instances=found)
    sample.set_metainfo({'instances': [dict(bbox=[3, 1, 6, 2], bbox_label=1)]})
    image = np.zeros((9, 9, 3), np.uint8)
    figures = []
    monkeypatch.setattr(predictions, 'predict', lambda *_: ([image], [sample], META))
    monkeypatch.setattr(predictions.Config, 'fromfile', lambda path: None)
    monkeypatch.setattr(predictions.plt, 'close', figures.append)
    nets = {'net': ('net.py', 'net.pth')}
    predictions.draw_predictions(nets, tmp_path / 'x.png', count=1, **asked)
    [figure] = figures
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ['image', 'truth', f'net, scores from {shown}']
    assert [len(axis.patches) for axis in figure.axes] == [0, 1, drawn]
    plt.close(figure)


@pytest.mark.parametrize('score', [-0.1, 1.1, float('nan')])
def test_what_is_no_score_is_refused(tmp_path, score):
    with pytest.raises(ValueError, match='`least_score` = .*from 0 to 1'):
        predictions.draw_predictions({}, tmp_path / 'x.png', least_score=score)
