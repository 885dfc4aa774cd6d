"""What is checked of a detector or a segmentor: labels, classes, kinds of scores."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.structures import InstanceData

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmdet.structures import DetDataSample
from tiny_scenes import FCN, RETINANET, scenes_config

LOGITS = dict(
    mmdet=[f'logits{level}' for level in range(5)],
    mmseg='logits',
)


def pixel_config(net, loss, classes=None):
    """A run of one step in which scores of places are compared."""
    cfg = scenes_config(net, scenes=2)
    names = LOGITS[net['_scope_']]
    sources = names if isinstance(names, list) else [names]
    recorders = {x: dict(type='Tap', source=x) for x in sources}
    distiller = cfg.model.distiller
    distiller.student_recorders = deepcopy(recorders)
    distiller.teacher_recorders = deepcopy(recorders)
    distiller.distill_losses = dict(loss_pixel=loss)
    distiller.loss_forward_mappings = dict(
        loss_pixel={
            f'preds_{side}': dict(recorder=names, from_student=side == 'S')
            for side in 'ST'
        }
    )
    return cfg


@pytest.mark.parametrize(('net', 'part'), [(RETINANET, 'bbox'), (FCN, 'decode')])
def test_a_label_without_a_score_is_refused(net, part, make_runner):
    net = deepcopy(net)
    net[f'{part}_head']['num_classes'] = 4
    key = f'model.architecture.{part}_head.num_classes'
    with pytest.raises(ValueError, match=f'the head scores 4 classes.*{key}'):
        make_runner(scenes_config(net, scenes=4)).train()


def test_ignored_pixels_are_no_labels(make_runner):
    cfg = scenes_config(FCN, scenes=2)
    # Padded with 255 to the size that the preprocessor has.
    cfg.train_dataloader.dataset.pipeline[1].scale = (48, 48)
    make_runner(cfg).train()


@pytest.mark.parametrize(('net', 'part'), [(RETINANET, 'bbox'), (FCN, 'decode')])
def test_classes_matter_where_scores_are_compared(net, part, make_runner):
    kind = dict(type='DenseLoss', loss=dict(type='SigmoidKDLoss'))
    if net is RETINANET:
        kind = dict(type='LevelLoss', loss=kind)
    cfg = pixel_config(net, kind)
    cfg.model.teacher[f'{part}_head'].num_classes = 20
    with pytest.raises(ValueError, match='The teacher scores 20 classes'):
        make_runner(cfg)
    # Features alone say nothing of classes.
    cfg = scenes_config(net, scenes=2)
    cfg.model.teacher[f'{part}_head'].num_classes = 20
    make_runner(cfg)


SOFTMAX = dict(type='DenseLoss', loss=dict(type='KDLoss', tau=1.0))
SIGMOID = dict(type='DenseLoss', loss=dict(type='SigmoidKDLoss'))


@pytest.mark.parametrize(
    ('net', 'loss', 'warns'),
    [
        (RETINANET, dict(type='LevelLoss', loss=SOFTMAX), True),
        (RETINANET, dict(type='LevelLoss', loss=SIGMOID), False),
        (FCN, SOFTMAX, False),
        (
            {
                **FCN,
                'decode_head': dict(
                    FCN['decode_head'],
                    loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True),
                ),
            },
            SOFTMAX,
            True,
        ),
    ],
)
def test_a_softmax_beside_sigmoids_is_told(net, loss, warns, make_runner):
    runner = make_runner(pixel_config(net, loss))
    runner.train()
    [log] = Path(runner.log_dir).glob('*.log')
    text = log.read_text()
    told = 'It does not change where all logits of an image rise together'
    assert (text.count(told) == 1) is warns
    assert 'was not tried out' not in text


def test_images_without_boxes_are_labelled():
    sample = DetDataSample(gt_instances=InstanceData(labels=torch.zeros(0).long()))
    from cakd_mm.tasks import TASKS

    assert TASKS[1].has_label(sample)


@pytest.mark.parametrize('net', [RETINANET, FCN])
def test_an_image_without_labels_is_named(net, make_runner, monkeypatch):
    cfg = scenes_config(net, scenes=2)
    runner = make_runner(cfg)
    name = 'gt_instances' if net is RETINANET else 'gt_sem_seg'
    [batch] = list(runner.train_dataloader)
    for sample in batch['data_samples']:
        delattr(sample, name)
    model = runner.model
    with pytest.raises(ValueError, match='calculate_student_loss'):
        model.train_step(batch, runner.build_optim_wrapper(cfg.optim_wrapper))
    # From its teacher alone a student learns without labels.
    model.calculate_student_loss = False
    logged = model.train_step(batch, runner.build_optim_wrapper(cfg.optim_wrapper))
    assert [x for x in logged if 'loss' in x] == ['loss', 'distill.loss_feature']
