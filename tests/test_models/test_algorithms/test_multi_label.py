"""Several labels an image, some images with none, through a whole distillation."""

import json

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain import get_model
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from pages import blocks
from sklearn.datasets import load_digits
from tiny import CONFIGS, digits_config

from cakd_mm.models.losses.functional import decoupled_kl

LABELS = ([0, 3, 7], [], [2], list(range(10)))


def build() -> torch.nn.Module:
    cfg: Config = digits_config('cakd/ablations/digits/digits_logit-single_network.py')
    model = cfg.model
    for net in (model.architecture, model.teacher):
        net.head.type = 'MultiLabelLinearClsHead'
    losses = model.distiller.distill_losses
    losses.loss_cakd.update(multi_label=True, beta=2.0)
    losses.loss_feature.scorer.multi_label = True
    model.update(teacher_ckpt=None, allow_random_teacher=True)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built = MODELS.build(dict(model, data_preprocessor=cfg.data_preprocessor))
    return built.train()


def batch() -> dict:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (4, 3, 16, 16), generator=generator)
    samples = [DataSample().set_gt_label(torch.tensor(x).long()) for x in LABELS]
    return {'inputs': images.to(torch.uint8), 'data_samples': samples}


def test_rows_without_and_with_all_labels():
    model = build()
    data = model.data_preprocessor(batch(), True)
    losses = model(**data, mode='loss')
    strong = torch.tensor([[c in x for c in range(10)] for x in LABELS])
    student = model.distiller.get_record('logits', True)
    teacher = model.distiller.get_record('logits', False)
    bcd, scd, wcd = decoupled_kl(student, teacher, strong, 4.0)
    weighted = model.distiller.distill_losses['loss_cakd']
    rows = bcd + 2 * scd + weighted.gamma * wcd
    torch.testing.assert_close(losses['distill.loss_cakd'], 16 * rows.mean())
    assert bcd[1] == bcd[3] == scd[1] == wcd[3] == 0  # an empty cluster each

    # The scoring network learns from all labels: the classifier's bias gets
    # sigmoid minus target, averaged over all entries.
    scorer = model.distiller.distill_losses['loss_feature'].scorer
    feature = model.distiller.get_record('feature', False, data_idx=0)
    with torch.no_grad():
        gates = scorer.gate(scorer.norm(feature)).sigmoid()
        gated = feature * (0.25 / scorer.norm.rms()) * gates
        off = scorer.classifier(gated).sigmoid() - strong.float()
    total, _ = model.parse_losses(losses)
    total.backward()
    found = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and torch.isfinite(g).all() for g in found)
    torch.testing.assert_close(scorer.classifier.bias.grad, off.sum(0) / 40)


def write_images(folder):
    """Write images of one or two digits, or of none, with their annotations."""
    digits, draw = load_digits(), np.random.default_rng(0)
    (folder / 'data').mkdir()
    classes = [str(i) for i in range(10)]
    for part, count in (('train', 192), ('val', 32)):
        entries = []
        for index in range(count):
            chosen = draw.choice(len(digits.images), index % 3, replace=False)
            scans = [np.zeros((8, 8)), *digits.images[chosen]]
            image = cv2.resize(np.max(scans, 0) * 15.9, (16, 16)).astype(np.uint8)
            name = f'{part}_{index}.png'
            cv2.imwrite(str(folder / 'data' / name), image)
            labels = sorted({int(x) for x in digits.target[chosen]})
            entries.append(dict(img_path=name, gt_label=labels))
        content = dict(metainfo=dict(classes=classes), data_list=entries)
        (folder / 'data' / f'{part}.json').write_text(json.dumps(content))


def test_a_whole_run(tmp_path, monkeypatch, make_runner):
    """docs/guides/heads.md as it is written, with CAKD beside, on images of files."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path)
    (tmp_path / 'student.py').write_text(blocks('docs/guides/heads.md')[0])
    cfg = Config.fromfile(tmp_path / 'student.py')
    cfg.train_dataloader.batch_size, cfg.default_hooks.logger.interval = 32, 1
    plain = cfg.copy()
    plain.model = dict(cfg.model.teacher)
    plain.train_cfg.max_epochs = 5
    make_runner(plain, 'teacher').train()
    checkpoint = torch.load(tmp_path / 'teacher' / 'epoch_5.pth', weights_only=False)
    torch.save(dict(state_dict=checkpoint['state_dict']), tmp_path / 'teacher.pth')

    cakd = Config.fromfile(CONFIGS / '_base_/methods/cakd_logit.py').distiller
    cakd.distill_losses.loss_cakd.update(multi_label=True, gamma=1.0)
    cfg.model.distiller.distill_losses.update(cakd.distill_losses)
    cfg.model.distiller.loss_forward_mappings.update(cakd.loss_forward_mappings)
    cfg.train_cfg.max_epochs = 3
    runner = make_runner(cfg, 'run')
    runner.train()
    logs = sorted((tmp_path / 'run').glob('*/vis_data/scalars.json'))[-1]
    lines = [json.loads(line) for line in logs.read_text().splitlines()]
    steps = [line for line in lines if 'loss' in line]
    assert len(steps) == 18
    for name in ('sigmoid', 'cakd'):
        values = [line[f'distill.loss_{name}'] for line in steps]
        assert 0 < np.mean(values[-4:]) < 0.8 * np.mean(values[:2]), name
    assert {'sigmoid/present', 'sigmoid/absent', 'cakd/scd'} <= steps[-1].keys()
    scores = [line for line in lines if 'multi-label/f1-score' in line]
    assert len(scores) == 3

    # The student that is extracted scores alone.
    run = tmp_path / 'run'
    loaded = get_model(str(run / 'student.py'), pretrained=str(run / 'student.pth'))
    images = torch.randn(2, 3, 16, 16)
    student = runner.model.student.eval()
    assert torch.equal(loaded(images, mode='tensor'), student(images, mode='tensor'))
