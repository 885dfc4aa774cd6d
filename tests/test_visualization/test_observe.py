"""What a loss sees, against the teacher's own parts."""

import numpy as np
import pytest
import torch
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from tiny import algorithm, build, digits_config

from cakd_mm.visualization import observe
from cakd_mm.visualization.history import read_history
from cakd_mm.visualization.images import draw_images, strongest_channels


def test_shares_equal_a_slow_loop():
    generator = torch.Generator().manual_seed(0)
    strong = torch.rand(40, 7, generator=generator) > 0.6
    labels = [[index % 3] for index in range(30)]
    labels += [[index % 3, 3] for index in range(10)]
    found = observe.shares_by_class(strong, labels, 5)
    for k in range(4):
        own = [index for index, label in enumerate(labels) if k in label]
        for channel in range(7):
            count = sum(bool(strong[index, channel]) for index in own)
            assert found[k, channel].item() == pytest.approx(count / len(own))
    assert found[4].isnan().all()


def test_images_are_spread_over_classes():
    labels = [[index // 10] for index in range(100)]
    assert observe.spread(labels, 4) == [0, 30, 60, 90]
    assert observe.spread(labels, 12) == [*range(0, 100, 10), 1, 11]
    assert sorted(observe.spread(labels, 1000)) == list(range(100))


@pytest.mark.parametrize('to_rgb', [True, False])
@pytest.mark.parametrize('from_file', [True, False])
def test_images_are_shown_in_rgb(to_rgb, from_file):
    stored = torch.randint(0, 256, (1, 3, 4, 5), dtype=torch.uint8)
    rgb = stored.flip(1) if to_rgb or from_file else stored
    mean, std = [10.0, 120, 60], [50.0, 60, 70]
    preprocessor = ClsDataPreprocessor(mean=mean, std=std, to_rgb=to_rgb)
    sample = DataSample()
    if from_file:
        sample.set_field('a.png', 'img_path', field_type='metainfo')
    data = preprocessor(dict(inputs=stored, data_samples=[sample]))
    [image] = observe.originals(data, preprocessor)
    np.testing.assert_allclose(image, rgb[0].permute(1, 2, 0) / 255, atol=1e-5)


def test_what_is_seen_is_what_the_loss_computes(trained):
    _, cfg = read_history(trained)
    model = observe.build_model(cfg, observe.latest_checkpoint(trained))
    dataset = observe.build_dataset(cfg)
    indices = [5, 0, 33]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    runtime = model.teacher_runtime = object()  # which nobody can call
    seen = observe.run_loss(model, 'loss_feature', dataset, indices, True, batch=2)
    assert model.teacher_runtime is runtime
    model.teacher_runtime = None
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)

    items = [dataset[index] for index in indices]
    inputs = torch.stack([item['inputs'] for item in items]).float()
    normal = (inputs - 77.8) / 95.7
    loss, teacher = model.distiller.distill_losses['loss_feature'], model.teacher
    with torch.no_grad():
        maps = teacher.backbone(normal)[-1]
        feature = maps.mean((2, 3))
        scores = loss.scorer.gate(loss.scorer.norm(feature))
        logits = teacher.head.fc(feature)
    torch.testing.assert_close(seen.scores, scores, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen.logits, logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen.maps, maps, atol=1e-4, rtol=1e-4)
    shown = torch.tensor(np.stack(seen.images)).permute(0, 3, 1, 2)
    torch.testing.assert_close(shown, inputs / 255, atol=1e-5, rtol=0)
    assert seen.labels == [[item['data_samples'].gt_label.item()] for item in items]
    for row, strong in zip(seen.scores, seen.strong, strict=True):
        best = sorted(range(64), key=lambda channel: -row[channel])[:32]
        assert strong.nonzero()[:, 0].tolist() == sorted(best)
        assert strongest_channels(row, 5) == best[:5]


def test_the_newest_checkpoint_is_taken(tmp_path):
    for name in ('epoch_9', 'epoch_10', 'best_top1_epoch_11', 'student'):
        (tmp_path / f'{name}.pth').touch()
    assert observe.latest_checkpoint(tmp_path).name == 'epoch_10.pth'


def test_a_teacher_without_a_classifier(tmp_path):
    pytest.importorskip('timm')
    net = dict(type='mmpretrain.TimmClassifier', model_name='test_resnet')
    net.update(num_classes=0)
    torch.save(build(net).state_dict(), tmp_path / 'teacher.pth')
    cfg = digits_config('cakd/demo_digits.py')
    cfg.model.teacher = dict(net, _scope_='mmpretrain')
    cfg.model.teacher_ckpt = str(tmp_path / 'teacher.pth')
    parts = cfg.model.distiller
    parts.student_recorders.feature = dict(type='ModuleOutputs', source='neck')
    parts.teacher_recorders = dict(feature=dict(type='Tap', source='pooled'))
    parts.connectors = dict(feature=dict(type='PooledConnector'))
    scorer = dict(type='ActivationScorer')
    parts.distill_losses = dict(loss_f=dict(type='CAKDFeatureLoss', scorer=scorer))
    parts.loss_forward_mappings = dict(
        loss_f=dict(
            preds_S=dict(
                recorder='feature', from_student=True, data_idx=0, connector='feature'
            ),
            preds_T=dict(recorder='feature', from_student=False),
        )
    )
    model, dataset = algorithm(cfg).eval(), observe.build_dataset(cfg)
    seen = observe.run_loss(model, 'loss_f', dataset, [5, 0], pictures=True)
    assert seen.logits is None
    names = observe.class_names(dataset, seen, seen.labels)
    assert len(names) == 10
    with torch.no_grad():
        images = (torch.stack([dataset[x]['inputs'] for x in (5, 0)]) - 77.8) / 95.7
        maps = model.teacher.model.forward_features(images)
    torch.testing.assert_close(seen.maps, maps, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen.scores, maps.mean((2, 3)), atol=1e-4, rtol=1e-4)
    titles = [axis.get_title() for axis in draw_images(seen, names, 2, 'x').axes]
    assert titles[0] == f'image 5\nclass: {names[6]}\nthe teacher does not say'
