import runpy
import sys
from pathlib import Path

import mmrazor
import pytest
import torch
from mmengine.config import Config
from mmpretrain import get_model
from tiny import CONFIGS, build, distill_config

from cakd_mm.tasks import TASKS
from cakd_mm.tasks.classification import Classification
from cakd_mm.utils import extract


@pytest.fixture
def trained(tmp_path, make_runner):
    """A distillation run of one epoch: its config, folder and checkpoint's path."""
    cfg = distill_config(tmp_path, images=64, epochs=1)
    runner = make_runner(cfg)
    runner.train()
    return cfg, runner, Path(runner.work_dir) / 'epoch_1.pth'


def load(path):
    return torch.load(path, map_location='cpu', weights_only=False)


def scores(model, images):
    with torch.no_grad():
        return model.eval()(images, mode='tensor')


def test_command_line_tools(trained, tmp_path, root, monkeypatch):
    """Ours and mmrazor's own converter agree, and hold nothing but the student."""
    cfg, runner, checkpoint = trained
    cfg.dump(tmp_path / 'config.py')
    ours = root / 'tools/model_converters/extract_student.py'
    theirs = Path(mmrazor.__file__).parent / (
        '.mim/tools/model_converters/convert_kd_ckpt_to_student.py'
    )
    out = tmp_path / 'ours.pth'
    # What torch needs since 2.6 for any checkpoint of mmengine.
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    for command in (
        [ours, tmp_path / 'config.py', checkpoint, '--out', out],
        [theirs, checkpoint, '--out-path', tmp_path],
    ):
        monkeypatch.setattr(sys, 'argv', [str(word) for word in command])
        runpy.run_path(sys.argv[0], run_name='__main__')
    plain = load(out)
    assert set(plain) == {'meta', 'state_dict'}
    stock = load(tmp_path / 'epoch_1_student.pth')['state_dict']
    assert plain['state_dict'].keys() == stock.keys()
    live = runner.model.student.state_dict()
    for name, value in live.items():
        assert torch.equal(plain['state_dict'][name], value), name
        assert torch.equal(stock[name], value), name
    assert plain['meta']['dataset_meta']['classes'][3] == '3'


class TestStudentWeights:
    def make(self, average=False, prefix='module.'):
        checkpoint = {
            'state_dict': {
                'architecture.w': torch.tensor(1.0),
                'distiller.c': torch.tensor(2.0),
                'teacher_sha256': torch.zeros(32),
            }
        }
        if average:
            checkpoint['ema_state_dict'] = {
                'steps': torch.tensor(5),
                f'{prefix}w': torch.tensor(3.0),
            }
        return checkpoint

    def test_nothing_but_the_student(self):
        assert extract.student_weights(self.make()) == {'w': torch.tensor(1.0)}

    @pytest.mark.parametrize(('ema', 'value'), [(True, 1.0), (False, 3.0)])
    def test_average_on_request(self, ema, value):
        found = extract.student_weights(self.make(average=True), ema=ema)
        assert {k: float(v) for k, v in found.items()} == {'w': value}
        # mmengine's own hook averages the whole algorithm; a wrapper may be around it.
        whole = self.make(average=True, prefix='module.architecture.')
        state = whole['state_dict']
        whole['state_dict'] = {f'module.{name}': x for name, x in state.items()}
        found = extract.student_weights(whole, ema=ema)
        assert {k: float(v) for k, v in found.items()} == {'w': value}

    def test_no_average_to_give(self):
        with pytest.raises(ValueError, match=r'--ema.*no averaged.*StudentEMAHook'):
            extract.student_weights(self.make(), ema=True)

    def test_not_a_distillation_checkpoint(self):
        with pytest.raises(ValueError, match=r'checkpoint.*backbone.*architecture'):
            extract.student_weights({'state_dict': {'backbone.w': torch.zeros(1)}})


class TestPlainConfig:
    def test_a_net_of_mmpretrains_needs_no_import_of_ours(self):
        cfg = Config.fromfile(CONFIGS / 'cakd/r34_r18_in1k.py')
        plain = extract.plain_config(cfg)
        assert 'custom_imports' not in plain
        assert plain.model.backbone.depth == 18
        assert plain.data_preprocessor.mean == [123.675, 116.28, 103.53]
        assert TASKS[0].image_shape(plain) == (3, 224, 224)
        assert build(plain.model).head.num_classes == 1000
        # For mmdeploy.
        assert plain.test_pipeline == plain.test_dataloader.dataset.pipeline
        assert plain.visualizer.type == 'UniversalVisualizer'

    def test_a_net_of_ours_imports_us(self):
        cfg = Config.fromfile(CONFIGS / 'cakd/demo_digits.py')
        plain = extract.plain_config(cfg)
        assert plain.custom_imports.imports == ['cakd_mm']
        assert TASKS[0].image_shape(plain) == (3, 16, 16)

    @pytest.mark.parametrize('own', [{}, dict(type='BatchPreprocessor')])
    def test_settings_that_mmpretrains_preprocessor_does_not_know(self, own):
        cfg = Config.fromfile(CONFIGS / 'cakd/demo_digits.py')
        of_training = dict(non_blocking=False, channels_last=True)
        cfg.data_preprocessor.update(of_training, **own)
        found = extract.plain_config(cfg).data_preprocessor
        expected = of_training if own else {}
        assert {k: found[k] for k in of_training if k in found} == expected
        assert cfg.data_preprocessor.non_blocking is False

    def test_a_vanilla_config_is_refused(self):
        cfg = Config.fromfile(CONFIGS / 'vanilla/resnet8_digits.py')
        with pytest.raises(ValueError, match=r"`model` = 'ImageClassifier'"):
            extract.plain_config(cfg)

    def test_image_size_of_a_transformer_student(self):
        cfg = Config(
            dict(
                model=dict(backbone=dict(img_size=48, in_channels=1)),
                test_dataloader=dict(
                    dataset=dict(pipeline=[dict(type='Resize', scale=64)])
                ),
            )
        )
        assert TASKS[0].image_shape(cfg) == (1, 48, 48)

    @pytest.mark.parametrize(
        ('net', 'shape'),
        [
            (dict(img_size=48, in_chans=1), (1, 48, 48)),
            (dict(image_size=48), (3, 48, 48)),
            (dict(config=dict(image_size=48, num_channels=1)), (1, 48, 48)),
            ({}, (3, 224, 224)),
        ],
    )
    def test_image_size_of_a_net_of_others(self, net, shape):
        assert TASKS[0].image_shape(Config(dict(model=net))) == shape
        dataset = dict(pipeline=[dict(type='Resize', scale=64)])
        cfg = Config(dict(model=net, test_dataloader=dict(dataset=dataset)))
        assert TASKS[0].image_shape(cfg) == (shape[0], 64, 64)


def test_unequal_outputs_are_not_let_through(tmp_path, monkeypatch):
    cfg = distill_config(tmp_path)
    weights = build(cfg.model.architecture).state_dict()

    def other(task, config, checkpoint):
        model = get_model(config, pretrained=checkpoint)
        model.head.fc.bias.data += 1
        return model

    monkeypatch.setattr(Classification, 'load', other)
    with pytest.raises(RuntimeError, match='does not give the outputs'):
        extract.save_student(cfg, weights, tmp_path / 'student.pth')
