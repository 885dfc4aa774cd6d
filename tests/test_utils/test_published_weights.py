"""Files as timm, Hugging Face and torchvision publish them, loaded strictly."""

import json
import logging

import pytest
import torch
import torchvision
from mmengine.logging import MMLogger
from tiny import SMALL_TRANSFORMER, build, image_classifier

from cakd_mm.utils.checkpoint import (
    load_file,
    load_strictly,
    model_weights,
    read_checkpoint,
)

KEY = 'model.teacher_ckpt'
SEED = torch.Generator().manual_seed(0)


def load(net, path):
    """Load a file into a net, and return the lines of the log."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        weights = model_weights(read_checkpoint(str(path), KEY, 'Remedy.'))
        load_strictly(net.eval(), weights, KEY, str(path), 'Remedy.')
    finally:
        logger.removeHandler(handler)
    return lines


def refused(net, path):
    with pytest.raises(ValueError, match=f'`{KEY}` = .*The weights do not fit') as info:
        load(net, path)
    return str(info.value)


@torch.no_grad()
def equal(net, other, size=16):
    images = torch.randn(2, 3, size, size, generator=SEED)
    return torch.equal(net.eval()(images), other.eval()(images))


class TestTimm:
    @pytest.fixture
    def timm(self):
        return pytest.importorskip('timm')

    @staticmethod
    def net(**options):
        options = {'model_name': 'test_vit', 'num_classes': 7, **options}
        return build(dict(type='TimmClassifier', **options))

    def test_the_file_of_its_hub(self, timm, tmp_path):
        safetensors = pytest.importorskip('safetensors.torch')
        genuine = timm.create_model('test_vit', num_classes=7)
        safetensors.save_file(genuine.state_dict(), tmp_path / 'model.safetensors')
        net = self.net()
        assert load(net, tmp_path / 'model.safetensors') == []
        assert equal(net, genuine, 160)

    @pytest.mark.parametrize('holder', ['state_dict', 'model'])
    def test_of_its_training_script(self, timm, tmp_path, holder):
        genuine = timm.create_model('test_vit', num_classes=7)
        weights = {f'module.{k}': v for k, v in genuine.state_dict().items()}
        torch.save({holder: weights, 'epoch': 3, 'arch': 'x'}, tmp_path / 'last.pth')
        net = self.net()
        assert load(net, tmp_path / 'last.pth') == []
        assert equal(net, genuine, 160)

    @pytest.mark.parametrize(
        ('name', 'layer'), [('test_vit', 'head'), ('test_convnext', 'head.fc')]
    )
    def test_a_net_without_classifier(self, timm, tmp_path, name, layer):
        genuine = timm.create_model(name, num_classes=7)
        torch.save(genuine.state_dict(), tmp_path / 'a.pth')
        net = self.net(model_name=name, num_classes=0)
        [line] = load(net, tmp_path / 'a.pth')
        assert line.endswith(
            '2 tensors of the file were left out, because the net has no classifier '
            f'({layer}).'
        )
        genuine.reset_classifier(0)
        assert equal(net, genuine, 160)

    def test_original_dinov2_of_other_images(self, timm, tmp_path):
        """timm's conversion drops the mask token and resizes the positions."""
        small = dict(embed_dim=24, num_heads=2, num_classes=0)
        name = 'vit_small_patch14_dinov2'
        genuine = timm.create_model(name, depth=2, img_size=84, **small)
        mask = dict(mask_token=torch.zeros(1, 24))
        torch.save({**genuine.state_dict(), **mask}, tmp_path / 'dino.pth')
        small.update(model_name=name, img_size=56)
        net = self.net(depth=2, **small)
        [line] = load(net, tmp_path / 'dino.pth')
        assert 'pos_embed of the file, (1, 37, 24), was resized to (1, 17, 24)' in line
        block = 'blocks.1.attn.qkv.weight'
        assert torch.equal(net.state_dict()[block], genuine.state_dict()[block])
        text = refused(self.net(depth=3, **small), tmp_path / 'dino.pth')
        assert '14 missing keys (blocks.2.attn' in text
        # Only a table of positions may be resized.
        text = refused(self.net(depth=2, patch_size=8, **small), tmp_path / 'dino.pth')
        assert 'proj.weight is (24, 3, 14, 14) in the file, (24, 3, 8, 8)' in text

    def test_another_number_of_classes(self, timm, tmp_path):
        genuine = timm.create_model('test_vit', num_classes=5)
        torch.save(genuine.state_dict(), tmp_path / 'a.pth')
        text = refused(self.net(), tmp_path / 'a.pth')
        assert 'The file scores 5 classes, the config asks for 7.' in text


class TestTorchvision:
    @staticmethod
    def net(name, classes=7, **options):
        kind = dict(type='TorchvisionClassifier', model_name=name)
        return build(dict(**kind, num_classes=classes, **options))

    def test_old_names_of_densenet(self, tmp_path):
        genuine = torchvision.models.DenseNet(8, (1, 1), 8, num_classes=7)
        old = {
            k.replace('norm1', 'norm.1')
            .replace('norm2', 'norm.2')
            .replace('conv1', 'conv.1')
            .replace('conv2', 'conv.2'): v
            for k, v in genuine.state_dict().items()
        }
        assert 'features.denseblock1.denselayer1.norm.1.weight' in old
        torch.save(old, tmp_path / 'a.pth')
        net = self.net('shufflenet_v2_x0_5')
        net.model = torchvision.models.DenseNet(8, (1, 1), 8, num_classes=7)
        assert load(net, tmp_path / 'a.pth') == []
        assert equal(net, genuine, 32)

    def test_old_names_that_its_modules_know(self, tmp_path):
        genuine = torchvision.models.VisionTransformer(16, 8, 1, 2, 16, 32)
        names = {'mlp.0.': 'mlp.linear_1.', 'mlp.3.': 'mlp.linear_2.'}
        old = {}
        for name, value in genuine.state_dict().items():
            for new, before in names.items():
                name = name.replace(new, before)
            old[name] = value
        torch.save(old, tmp_path / 'a.pth')
        net = self.net('shufflenet_v2_x0_5')
        net.model = torchvision.models.VisionTransformer(16, 8, 1, 2, 16, 32)
        assert load(net, tmp_path / 'a.pth') == []
        assert equal(net, genuine)
        del old['encoder.ln.bias']
        torch.save(old | {'ln.bias': torch.zeros(1)}, tmp_path / 'a.pth')
        text = refused(net, tmp_path / 'a.pth')
        assert '1 missing keys (encoder.ln.bias); 1 unexpected keys (ln.bias)' in text

    def test_a_net_that_asks_for_versions(self, tmp_path):
        genuine = torchvision.models.mnasnet0_5(num_classes=7)
        torch.save(dict(genuine.state_dict()), tmp_path / 'a.pth')
        net = self.net('mnasnet0_5')
        load(net, tmp_path / 'a.pth')
        assert equal(net, genuine, 32)

    def test_parts_that_may_be_left_out(self, tmp_path):
        """The published files have the auxiliary classifiers."""
        genuine = torchvision.models.googlenet(num_classes=7, init_weights=False)
        torch.save(genuine.state_dict(), tmp_path / 'a.pth')
        net = self.net('googlenet', 0, init_weights=False)
        [line] = load(net, tmp_path / 'a.pth')
        assert '(aux1.conv.bn, aux1.conv.conv, aux1.fc1, aux1.fc2, ...)' in line
        genuine.fc = torch.nn.Identity()
        assert equal(net, genuine, 32)


def test_a_net_of_mmpretrain_without_head(tmp_path):
    backbone = dict(type='CIFARResNet', depth=8)
    whole = image_classifier(backbone, 64, 7)
    torch.save(whole.state_dict(), tmp_path / 'a.pth')
    neck = dict(type='GlobalAveragePooling')
    net = build(dict(type='ImageClassifier', backbone=backbone, neck=neck))
    [line] = load(net, tmp_path / 'a.pth')
    assert 'no classifier (head.fc)' in line
    with torch.no_grad():
        images = torch.randn(2, 3, 16, 16)
        [found], [wanted] = net(images), whole.eval().extract_feat(images)
    assert torch.equal(found, wanted)


class TestHuggingFace:
    @pytest.fixture(autouse=True)
    def transformers(self):
        transformers = pytest.importorskip('transformers')
        if not transformers.is_torch_available():
            pytest.skip('this transformers needs a newer PyTorch')
        return transformers

    @staticmethod
    def saved(transformers, folder, kind='dinov2', **options):
        """Save a classifier as transformers does, and return it."""
        values = {**SMALL_TRANSFORMER, 'num_labels': 7, **options}
        config = transformers.AutoConfig.for_model(kind, **values)
        torch.manual_seed(1)
        auto = transformers.AutoModelForImageClassification
        genuine = auto.from_config(config)
        genuine.save_pretrained(folder)
        return genuine

    @staticmethod
    def net(folder, kind='HuggingFaceClassifier', **options):
        return build(dict(type=kind, model_name=str(folder), **options))

    @torch.no_grad()
    @pytest.mark.parametrize('kind', ['dinov2', 'vit'])
    def test_a_classifier_and_its_backbone(self, transformers, tmp_path, kind):
        genuine = self.saved(transformers, tmp_path, kind).eval()
        images, file = torch.randn(2, 3, 16, 16), tmp_path / 'model.safetensors'
        for name in ('HuggingFaceClassifier', 'HuggingFaceConfigClassifier'):
            net = self.net(tmp_path, name)
            assert load(net, file) == []
            assert torch.equal(net(images), genuine(images).logits)
        backbone = self.net(tmp_path, 'HuggingFaceBackbone')
        [line] = load(backbone, file)
        assert line.endswith('the net has no such part (classifier).')
        tokens = genuine.base_model(images).last_hidden_state
        assert torch.equal(backbone(images), tokens[:, 0])
        text = refused(self.net(tmp_path, num_labels=5), file)
        assert 'The file scores 7 classes, the config asks for 5.' in text

    def test_its_own_names_and_several_files(self, transformers, tmp_path):
        genuine = self.saved(transformers, tmp_path)
        torch.save(genuine.state_dict(), tmp_path / 'pytorch_model.bin')
        net = self.net(tmp_path)
        assert load(net, tmp_path / 'pytorch_model.bin') == []
        wanted = {k: v.clone() for k, v in net.state_dict().items()}
        genuine.save_pretrained(tmp_path, max_shard_size='10KB')
        assert len([*tmp_path.glob('model-*.safetensors')]) > 1
        net = self.net(tmp_path)
        assert load(net, tmp_path / 'model.safetensors.index.json') == []
        assert all(torch.equal(v, wanted[k]) for k, v in net.state_dict().items())

    def test_the_index_says_of_which_file_a_weight_is(self, transformers, tmp_path):
        self.saved(transformers, tmp_path).save_pretrained(
            tmp_path, max_shard_size='10KB'
        )
        index = tmp_path / 'model.safetensors.index.json'
        places = json.loads(index.read_text())['weight_map']
        before = load_file(index)
        save_file = pytest.importorskip('safetensors.torch').save_file
        for place in {*places.values()}:
            wrong = {k: v + 1 for k, v in before.items() if places[k] != place}
            save_file({**before, **wrong}, tmp_path / place)
        after = load_file(index)
        assert all(torch.equal(after[name], before[name]) for name in before)

    def test_weights_of_a_quantized_net(self, transformers, tmp_path):
        self.saved(transformers, tmp_path)
        net = self.net(tmp_path)
        weights = {name: x.to(torch.int8) for name, x in net.state_dict().items()}
        torch.save(weights, tmp_path / 'weights.pth')
        text = refused(net, tmp_path / 'weights.pth')
        assert 'classifier.weight is of torch.int8 in the file' in text

    @torch.no_grad()
    def test_the_net_of_images_of_a_file_with_texts(self, transformers, tmp_path):
        text = dict(SMALL_TRANSFORMER, vocab_size=9, bos_token_id=1, eos_token_id=2)
        config = transformers.CLIPConfig(
            vision_config=SMALL_TRANSFORMER, text_config=text
        )
        genuine = transformers.AutoModel.from_config(config).eval()
        genuine.save_pretrained(tmp_path)
        net = self.net(tmp_path, 'HuggingFaceBackbone')
        [line] = load(net, tmp_path / 'model.safetensors')
        assert 'the net has no such part (logit_scale, text_model.' in line
        images = torch.randn(2, 3, 16, 16)
        assert torch.equal(net(images), genuine.vision_model(images).pooler_output)

    def test_a_pooling_layer_that_no_classifier_uses(self, transformers, tmp_path):
        config = transformers.ViTConfig(**SMALL_TRANSFORMER)
        transformers.ViTModel(config).save_pretrained(tmp_path)
        net = self.net(tmp_path, 'HuggingFaceBackbone')
        [line] = load(net, tmp_path / 'model.safetensors')
        assert line.endswith('the net has no such layer (pooler.dense).')

    def test_a_deeper_net(self, transformers, tmp_path):
        self.saved(transformers, tmp_path, 'vit', num_hidden_layers=3)
        config = json.loads((tmp_path / 'config.json').read_text())
        config['num_hidden_layers'] = 2
        (tmp_path / 'config.json').write_text(json.dumps(config))
        for name in ('HuggingFaceClassifier', 'HuggingFaceBackbone'):
            text = refused(self.net(tmp_path, name), tmp_path / 'model.safetensors')
            assert '16 unexpected keys (' in text  # of its last layer
        config['num_hidden_layers'] = 4
        (tmp_path / 'config.json').write_text(json.dumps(config))
        text = refused(self.net(tmp_path), tmp_path / 'model.safetensors')
        assert '16 missing keys (' in text

    def test_it_draws_nothing_and_says_nothing(self, transformers, tmp_path, capfd):
        self.saved(transformers, tmp_path, 'vit')  # whose pooling layer is drawn
        net = self.net(tmp_path, 'HuggingFaceBackbone')
        capfd.readouterr()
        torch.manual_seed(5)
        wanted = torch.rand(3)
        torch.manual_seed(5)
        load(net, tmp_path / 'model.safetensors')
        assert torch.equal(torch.rand(3), wanted)
        assert 'REPORT' not in ''.join(capfd.readouterr())
