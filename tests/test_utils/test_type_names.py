import json
import math

import pytest
import torch
from mmcv.transforms import LoadImageFromFile, TestTimeAug
from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.dataset import default_collate
from mmengine.hooks import EMAHook
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.engine.hooks import EMAHook as EMAHookOfMMPretrain
from mmpretrain.models import CrossEntropyLoss, ResNet
from mmrazor.models.task_modules.delivery import FunctionOutputsDelivery
from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder
from torch import nn

from cakd_mm.models.backbones import CIFARResNet
from cakd_mm.models.recorders import TapRecorder
from cakd_mm.utils import type_names
from cakd_mm.utils.arguments import class_of
from cakd_mm.utils.type_names import class_name, name_of, require_names

NAMES = {
    torch.optim.SGD: 'SGD',
    nn.BatchNorm2d: 'BN',  # by which mmcv and mmpretrain ask for it
    PretrainedInit: 'Pretrained',
    default_collate: 'default_collate',
    TestTimeAug: 'TestTimeAug',
    LoadImageFromFile: 'LoadImageFromFile',  # mmpretrain has it too
    EMAHook: 'mmengine.EMAHook',  # and here it has another of the name
    EMAHookOfMMPretrain: 'mmpretrain.EMAHook',
    CrossEntropyLoss: 'mmpretrain.CrossEntropyLoss',
    ResNet: 'mmpretrain.ResNet',
    ModuleOutputsRecorder: 'ModuleOutputs',  # mmrazor appends the rest
    FunctionOutputsDelivery: 'FunctionOutputs',
    TapRecorder: 'Tap',
    CIFARResNet: 'cakd_mm.models.CIFARResNet',
    json.JSONDecoder: 'json.JSONDecoder',  # of the package json.decoder
}


@pytest.mark.parametrize(('value', 'name'), NAMES.items(), ids=NAMES.values())
def test_a_class_is_written_by_a_name(value, name):
    assert name_of(value) == name


@pytest.mark.parametrize('kind', [nn.Conv2d, ResNet, CrossEntropyLoss, CIFARResNet])
def test_the_name_is_found_again(kind):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        assert class_of(dict(type=name_of(kind)), MODELS, 'model') is kind


def test_a_written_config_is_read_back_equal(tmp_path):
    """With classes and with what is imported lazily, in dicts, lists and tuples."""
    lazy = LazyObject('mmpretrain.models', 'ResNet')
    inner = LazyAttr('SGD', LazyObject('torch.optim'))
    parts = dict(
        plain=dict(type='ResNet', depth=18),
        known=dict(type=ResNet, stages=[nn.ReLU, (nn.Conv2d, 1)]),
        late=dict(type=lazy, kinds=[inner]),
        number=LazyObject('math', 'pi'),
    )
    cfg = Config(ConfigDict(parts))
    cfg.dump(tmp_path / 'written.py')
    read = Config.fromfile(tmp_path / 'written.py')
    assert read.to_dict() == cfg.to_dict()
    assert read.known == dict(type='mmpretrain.ResNet', stages=['ReLU', ('Conv2d', 1)])
    assert read.late == dict(type='mmpretrain.ResNet', kinds=['SGD'])
    assert read.number == math.pi


def test_a_config_in_text_has_no_entry_for_what_it_imports(tmp_path):
    file = tmp_path / 'leaf.py'
    file.write_text(
        'from torch.optim import SGD\n'
        'class Own:\n    pass\n'
        'def helper(x):\n    return x\n'
        'optimizer = dict(type=SGD, lr=helper(0.1))\n'
    )
    cfg = Config.fromfile(file)
    cfg.dump(tmp_path / 'written.py')
    read = Config.fromfile(tmp_path / 'written.py')
    assert dict(read) == dict(optimizer=dict(type='SGD', lr=0.1))


def test_what_cannot_be_imported_is_left_as_its_path():
    lazy = LazyObject('no_such_package.nets', 'Net')
    assert type_names.as_written(dict(type=lazy)) == dict(
        type='no_such_package.nets.Net'
    )


class TestOwnClasses:
    def test_one_of_a_module_is_accepted(self):
        require_names(dict(a=[dict(type=nn.ReLU)], b='x', c=int), 'model')

    @pytest.fixture
    def said(self, monkeypatch):
        """What is logged."""
        texts = []
        monkeypatch.setattr(type_names, 'print_log', lambda x, *_: texts.append(x))
        return texts

    def test_one_of_a_function_is_mentioned_and_refused(self, said):
        class Local(nn.Module):
            pass

        assert name_of(Local).endswith('<locals>.Local')
        assert name_of(nn.ReLU) == 'ReLU'
        assert len(said) == 1
        assert '<locals>.Local, which no other process finds' in said[0]
        message = r'`model.a.0.type` = .*Local.*can name it.*Move it into a module'
        with pytest.raises(ValueError, match=message):
            require_names(dict(a=[dict(type=Local)]), 'model')

    def test_one_of_the_script_is_mentioned(self, said):
        script = type('Script', (), dict(__module__='__main__'))
        assert name_of(script) == '__main__.Script'
        assert len(said) == 1
        assert 'Script as __main__.Script, which no other process finds' in said[0]


@pytest.mark.parametrize(
    'kind',
    [ResNet, 'ResNet', 'mmpretrain.ResNet', LazyObject('mmpretrain.models', 'ResNet')],
)
def test_the_name_alone(kind):
    assert class_name(kind) == 'ResNet'
