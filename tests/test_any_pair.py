"""Nets of four projects teach nets of six families by the method bases as they are."""

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmpretrain.structures import DataSample
from tiny import CONFIGS, algorithm

K, N, SIZE = 5, 4, 32
GAP = dict(type='GlobalAveragePooling')


def classifier(width, backbone, neck=GAP, head='LinearClsHead', **options):
    head = dict(type=head, num_classes=K, in_channels=width, **options)
    backbone = dict(backbone)
    return dict(
        type='mmpretrain.ImageClassifier', backbone=backbone, neck=neck, head=head
    )


# The config of each, and the width of what its classifier gets.
TEACHERS = dict(
    timm=(dict(type='TimmClassifier', model_name='resnet18', num_classes=K), 512),
    hugging_face=(
        dict(
            type='HuggingFaceConfigClassifier',
            num_classes=K,
            config=dict(
                model_type='vit',
                hidden_size=24,
                num_hidden_layers=4,
                num_attention_heads=2,
                intermediate_size=32,
                image_size=SIZE,
                patch_size=8,
            ),
        ),
        24,
    ),
    torchvision=(
        dict(
            type='TorchvisionClassifier', model_name='shufflenet_v2_x0_5', num_classes=K
        ),
        1024,
    ),
    dino=(
        dict(
            type='TimmClassifier',
            model_name='vit_small_patch14_reg4_dinov2',
            num_classes=0,
            img_size=28,
            depth=4,
            embed_dim=36,
            num_heads=2,
            data_preprocessor=dict(size=28),
        ),
        36,
    ),
)
STUDENTS = dict(
    mobilenet=(
        classifier(
            288,
            dict(type='MobileNetV3', arch='small_050'),
            head='StackedLinearClsHead',
            mid_channels=[64],
        ),
        64,
    ),
    efficientnet=(classifier(1280, dict(type='EfficientNet', arch='b0')), 1280),
    convnext=(
        classifier(
            48,
            dict(
                type='ConvNeXt',
                arch=dict(depths=[1, 1, 2, 1], channels=[8, 12, 24, 48]),
            ),
            neck=None,
        ),
        48,
    ),
    repvgg=(
        classifier(
            128,
            dict(
                type='RepVGG',
                arch=dict(
                    num_blocks=[1, 1, 1, 1],
                    width_factor=[0.25, 0.25, 0.25, 0.25],
                    group_layer_map=None,
                    se_cfg=None,
                    stem_channels=16,
                ),
                out_indices=(3,),
            ),
        ),
        128,
    ),
    deit=(
        classifier(
            28,
            dict(
                type='VisionTransformer',
                arch=dict(
                    embed_dims=28, num_layers=4, num_heads=2, feedforward_channels=32
                ),
                img_size=SIZE,
                patch_size=8,
            ),
            neck=None,
            head='VisionTransformerClsHead',
        ),
        28,
    ),
    swin=(
        classifier(
            96,
            dict(
                type='SwinTransformer',
                arch=dict(embed_dims=12, depths=[1, 1, 1, 1], num_heads=[1, 2, 3, 6]),
                img_size=SIZE,
                window_size=2,
                pad_small_map=True,
            ),
        ),
        96,
    ),
)


def built(student, teacher, method):
    """Build a pair with a method base in which nothing is changed."""
    distiller = Config.fromfile(CONFIGS / f'_base_/methods/{method}.py').distiller
    model = dict(
        type='mmrazor.FrozenTeacherDistill',
        _scope_='mmrazor',
        architecture=ConfigDict(student),
        teacher=ConfigDict(teacher, type=f'mmpretrain.{teacher["type"]}'),
        allow_random_teacher=True,
        distiller=distiller,
    )
    preprocessor = dict(num_classes=K, mean=[127.5] * 3, std=[60.0] * 3, to_rgb=True)
    return algorithm(Config(dict(model=model, data_preprocessor=preprocessor)))


def step(model):
    images = torch.randint(256, (N, 3, SIZE, SIZE), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(i) for i in range(N)]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), True)
    losses = model(**data, mode='loss')
    sum(value for name, value in losses.items() if 'distill' in name).backward()
    # A head of DeiT begins with zeros, through which no gradient comes to the others.
    gradients = [x.grad for x in model.student.parameters() if x.grad is not None]
    assert sum(x.abs().sum() for x in gradients) > 0
    return losses


@pytest.fixture(autouse=True)
def of_others():
    pytest.importorskip('timm')
    pytest.importorskip('transformers')


@pytest.mark.parametrize('name', STUDENTS)
@pytest.mark.parametrize('of', TEACHERS)
def test_between_logits(of, name):
    (student, _), (teacher, _) = STUDENTS[name], TEACHERS[of]
    if of == 'dino':
        match = r"logits\.source` = 'logits': VisionTransformer has no classifier"
        with pytest.raises(ValueError, match=match):
            built(student, teacher, 'cakd_logit')
        return
    assert step(built(student, teacher, 'cakd_logit'))['distill.loss_cakd'] > 0


@pytest.mark.parametrize('name', STUDENTS)
@pytest.mark.parametrize('of', TEACHERS)
def test_between_features(of, name):
    (student, ours), (teacher, theirs) = STUDENTS[name], TEACHERS[of]
    model = built(student, teacher, 'cakd_feature')
    filled = model.distiller_config
    connector = filled['connectors']['feature']
    assert (connector['in_channels'], connector['out_channels']) == (ours, theirs)
    loss = filled['distill_losses']['loss_feature']
    assert (loss['channels'], loss['scorer']['channels']) == (theirs, theirs)
    assert loss['scorer']['num_classes'] == K
    assert step(model)['distill.loss_feature'] > 0


@pytest.mark.parametrize('method', ['reviewkd', 'crd', 'cakd_logit_double'])
@pytest.mark.parametrize(
    ('of', 'name'), [('hugging_face', 'convnext'), ('timm', 'deit')]
)
def test_other_bases(of, name, method):
    """Maps of unequal size, those of tokens among them, and vectors."""
    model = built(STUDENTS[name][0], TEACHERS[of][0], method)
    for loss in model.distiller.losses().values():
        if loss.needs_dataset:
            loss.set_dataset(torch.arange(16) % K)
            loss.indices = torch.arange(N)
    assert all(value.isfinite() for value in step(model).values())
