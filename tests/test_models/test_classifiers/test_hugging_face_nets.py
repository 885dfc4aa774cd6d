"""Nets of transformers from a folder or from the values of a config."""

import json

import pytest
import torch
from tiny import SMALL_TRANSFORMER, build

from cakd_mm.utils.checkpoint import load_file, load_strictly

transformers = pytest.importorskip('transformers')
if not transformers.is_torch_available():
    pytest.skip('this transformers needs a newer PyTorch', allow_module_level=True)

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def net_of(model_type, kind='HuggingFaceBackbone', num_classes=None, **values):
    torch.manual_seed(0)
    values = {**SMALL_TRANSFORMER, 'model_type': model_type, **values}
    options = {} if num_classes is None else dict(num_classes=num_classes)
    return build(dict(type=kind, config=values, **options)).eval()


def test_a_classifier_of_values_alone():
    net = net_of('vit', 'HuggingFaceConfigClassifier', num_classes=7)
    assert type(net.model).__name__ == 'ViTForImageClassification'
    with torch.no_grad():
        assert torch.equal(net(IMAGES), net.model(IMAGES).logits)
    assert net(IMAGES).shape == (2, 7)
    assert {*net.state_dict()} == {*net.model.state_dict()}


def test_a_folder_says_the_same(tmp_path):
    net = net_of('vit', 'HuggingFaceConfigClassifier', num_classes=7)
    net.model.config.save_pretrained(tmp_path)
    for name in (tmp_path, tmp_path / 'config.json'):
        other = dict(type='HuggingFaceConfigClassifier', model_name=str(name))
        assert build(other).model.classifier.out_features == 7


def test_of_several_classifiers_it_is_the_first():
    net = net_of('deit', 'HuggingFaceConfigClassifier', num_classes=7)
    assert type(net.model).__name__ == 'DeiTForImageClassification'


@torch.no_grad()
@pytest.mark.parametrize('kind', ['dinov2', 'vit'])
def test_pooled_output_or_class_token(kind):
    net = net_of(kind)
    tokens = net.extract_feat(IMAGES).last_hidden_state
    assert tokens.shape == (2, 5, 16)
    assert torch.equal(net(IMAGES), tokens[:, 0])


@torch.no_grad()
def test_what_has_no_class_token_is_averaged():
    net = net_of('vit')
    net.model = Tokens()
    assert torch.equal(net(IMAGES), IMAGES.flatten(2).mean(2))


class Tokens(torch.nn.Module):
    """A net that gives each pixel as a token, and pools nothing."""

    def forward(self, pixel_values):
        tokens = pixel_values.flatten(2).transpose(1, 2)
        return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=tokens)


@torch.no_grad()
def test_of_images_and_texts_it_is_the_net_of_images():
    values = dict(model_type='clip', vision_config=SMALL_TRANSFORMER)
    net = build(dict(type='HuggingFaceBackbone', config=values)).eval()
    assert type(net.model).__name__ == 'CLIPVisionModel'
    assert torch.equal(net(IMAGES), net.model(IMAGES).pooler_output)


def test_a_backbone_gives_no_scores():
    with pytest.raises(ValueError, match=r"`mode` = 'loss': .*no classifier"):
        net_of('dinov2')(IMAGES, [], mode='loss')


@pytest.mark.parametrize(
    ('options', 'error', 'text'),
    [
        ({}, TypeError, 'one of model_name and config'),
        (dict(model_name='a', config={}), TypeError, 'one of model_name and config'),
        (dict(model_name='no/folder'), ValueError, r"'no/folder': There is no config"),
        (dict(config=dict(model_type='dinov')), ValueError, "Like it: .*'dinov2'"),
        (dict(config=SMALL_TRANSFORMER), ValueError, r'`config\.model_type` = None'),
        (
            dict(config=dict(model_type='clip_vision_model')),
            ValueError,
            'HuggingFaceBackbone',
        ),
    ],
)
def test_what_is_refused(options, error, text):
    with pytest.raises(error, match=text):
        build(dict(type='HuggingFaceConfigClassifier', **options))


@pytest.mark.parametrize(
    ('config', 'text'),
    [
        (dict(model_type='bert'), 'BertModel takes no images'),
        (
            dict(model_type='vit', hiden_size=16),
            r"`config\.hiden_size` = 16: .*Like it: 'hidden_size'",
        ),
        (
            dict(model_type='clip', vision_config=dict(hiden_size=16)),
            r'`config\.vision_config\.hiden_size`',
        ),
    ],
)
def test_what_transformers_would_take_and_not_use(config, text):
    small = dict(num_hidden_layers=1, **config)
    with pytest.raises(ValueError, match=text):
        build(dict(type='HuggingFaceBackbone', config=small))


def test_names_of_other_versions_remain():
    net = net_of('vit', id2label={0: 'cat'}, label2id={'cat': 0}, of_another_kind=1)
    assert net.model.config.id2label == {0: 'cat'}


def test_no_code_of_a_folder_is_run(tmp_path):
    values = dict(model_type='mine', auto_map={'AutoConfig': 'code.Config'})
    (tmp_path / 'config.json').write_text(json.dumps(values))
    ran = tmp_path / 'ran'
    (tmp_path / 'code.py').write_text(f'open({str(ran)!r}, "w")')
    with pytest.raises(ValueError, match='There is no config to read'):
        build(dict(type='HuggingFaceBackbone', model_name=str(tmp_path)))
    assert not ran.exists()


def test_a_config_runs_no_code_that_would_be_downloaded():
    with pytest.raises(ValueError, match='download code'):
        net_of('vit', attn_implementation='kernels-community/flash-attn')


def test_a_net_is_of_full_precision_whatever_its_file_was():
    net = net_of('vit', 'HuggingFaceConfigClassifier', num_classes=7, dtype='float16')
    assert {x.dtype for x in net.parameters()} == {torch.float32}


@torch.no_grad()
def test_a_masked_autoencoder_is_made_a_vit(tmp_path):
    decoder = {
        f'decoder_{name}': SMALL_TRANSFORMER[name]
        for name in ('hidden_size', 'num_hidden_layers', 'num_attention_heads')
    }
    config = transformers.ViTMAEConfig(**SMALL_TRANSFORMER, **decoder, mask_ratio=0.0)
    published = transformers.ViTMAEForPreTraining(config).eval()
    published.save_pretrained(tmp_path)
    folder = dict(type='HuggingFaceBackbone', model_name=str(tmp_path))
    with pytest.raises(ValueError, match='hides patches'):
        build(folder)
    # As the message says.
    transformers.ViTModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    net = build(folder).eval()
    weights = load_file(tmp_path / 'model.safetensors')
    load_strictly(net, weights, 'key', 'file', 'remedy')
    in_order = torch.arange(4.0).expand(2, 4)
    tokens = published.vit(IMAGES, noise=in_order).last_hidden_state
    torch.testing.assert_close(net(IMAGES), tokens[:, 0])
