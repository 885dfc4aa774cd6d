"""Several labels an image, some images with none, through a whole distillation."""

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from tiny import digits_config

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
