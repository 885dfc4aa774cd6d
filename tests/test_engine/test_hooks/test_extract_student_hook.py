from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, HOOKS
from mmpretrain import get_model
from tiny import SMALL, digits_config, distill_config

from cakd_mm.datasets import Digits
from cakd_mm.engine.hooks import extract_student_hook
from cakd_mm.models.backbones import CIFARResNet


@pytest.fixture
def train(tmp_path, make_runner):
    """Train one epoch; returns the runner, the work dir and what it trained."""

    def run(cfg):
        runner = make_runner(cfg)
        runner.train()
        return runner, Path(runner.work_dir)

    return run


def loaded(folder, name='student'):
    cfg = Config.fromfile(folder / f'{name}.py')
    return get_model(cfg, pretrained=str(folder / f'{name}.pth')).eval()


def same_scores(left, right):
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        scores = [net.eval()(images, mode='tensor') for net in (left, right)]
    return torch.equal(*scores)


def written(folder):
    return sorted(p.name for p in folder.glob('student*'))


def test_the_files_are_the_plain_student(train, tmp_path, lines):
    runner, folder = train(distill_config(tmp_path, epochs=1, **SMALL))
    check_log_and_meta(runner, lines)
    student = runner.model.student
    assert written(folder) == ['student.pth', 'student.py']
    plain = loaded(folder)
    assert type(plain).__name__ == 'ImageClassifier'
    text = (folder / 'student.py').read_text()
    assert not any(word in text for word in ('teacher', 'distill', 'mmrazor'))
    assert same_scores(plain, student)
    checkpoint = torch.load(folder / 'student.pth', weights_only=False)
    assert checkpoint.keys() == {'meta', 'state_dict'}
    assert checkpoint['state_dict'].keys() == student.state_dict().keys()
    for name, value in student.state_dict().items():
        assert torch.equal(checkpoint['state_dict'][name], value), name
    meta = checkpoint['meta']
    assert (meta['epoch'], meta['iter']) == (1, 3)
    assert meta['dataset_meta']['classes'] == tuple('0123456789')
    assert not set(Config.fromfile(folder / 'student.py')) & {
        *('train_dataloader', 'optim_wrapper', 'custom_hooks', 'load_from')
    }


def test_an_average_is_written_beside_it(train, tmp_path):
    cfg = distill_config(tmp_path, epochs=1, **SMALL)
    cfg.custom_hooks = [dict(type='StudentEMAHook', momentum=0.1)]
    runner, folder = train(cfg)
    assert len(written(folder)) == 4
    (ema,) = (h for h in runner.hooks if type(h).__name__ == 'StudentEMAHook')
    assert same_scores(loaded(folder), runner.model.student)
    assert same_scores(loaded(folder, 'student_ema'), ema.ema_model.module)
    assert not same_scores(loaded(folder), loaded(folder, 'student_ema'))


def test_a_student_that_no_file_can_name_is_refused_before_training(train, tmp_path):
    class Local(CIFARResNet):
        pass

    cfg = distill_config(tmp_path, epochs=1, **SMALL)
    cfg.model.architecture.backbone.type = Local
    key = r'`model\.architecture\.backbone\.type` = .*Local'
    with pytest.raises(ValueError, match=key + '.*student.py.*Move it into a module'):
        train(cfg)
    assert not list(tmp_path.rglob('*_1.pth'))


def test_it_comes_after_the_last_checkpoint(make_runner, tmp_path):
    runner = make_runner(distill_config(tmp_path, **SMALL))
    order = [type(hook).__name__ for hook in runner.hooks]
    assert order.index('ExtractStudentHook') > order.index('WholeCheckpointHook')


def test_a_plain_run_writes_nothing(train):
    _, folder = train(digits_config('vanilla/resnet8_digits.py', epochs=1, **SMALL))
    assert (folder / 'epoch_1.pth').exists()
    assert written(folder) == []


def test_only_the_main_process_writes(train, tmp_path, monkeypatch):
    monkeypatch.setattr(extract_student_hook, 'is_main_process', lambda: False)
    _, folder = train(distill_config(tmp_path, epochs=1, **SMALL))
    assert written(folder) == []


def test_a_student_s_file_may_change_while_it_is_trained(train, tmp_path):
    cfg = distill_config(tmp_path, epochs=1, **SMALL)
    net = tmp_path / 'net.py'
    net.write_text(Config(dict(model=cfg.model.architecture)).pretty_text)
    cfg.model.architecture = dict(cfg_path=str(net), head=dict(topk=(1,)))

    @HOOKS.register_module(force=True)
    class Remove(Hook):
        def after_train_epoch(self, runner):
            net.unlink()

    cfg.custom_hooks = [dict(type='Remove')]
    try:
        runner, folder = train(cfg)
    finally:
        HOOKS.module_dict.pop('Remove')
    assert not net.exists()
    assert same_scores(loaded(folder), runner.model.student)


@pytest.fixture
def lines(monkeypatch):
    """What runs log, without the formatting."""
    found = []
    monkeypatch.setattr(
        MMLogger, 'info', lambda self, text, *args, **kwargs: found.append(str(text))
    )
    return found


def check_log_and_meta(runner, lines):
    score = runner.message_hub.get_scalar('val/accuracy/top1').current()
    (line,) = [x for x in lines if 'student.pth' in x and x.startswith('The plain')]
    assert 'that of epoch 1, the last' in line
    assert line.endswith(f'accuracy/top1 {score:.2f}.')
    meta = torch.load(Path(runner.work_dir) / 'student.pth', weights_only=False)['meta']
    assert meta['scores'] == {'accuracy/top1': score}


def test_the_score_of_other_weights_is_not_told(train, tmp_path, lines):
    """mmengine's loop scores nothing where no step is left."""
    loop = dict(_delete_=True, by_epoch=True, max_epochs=1)
    cfg = distill_config(tmp_path, train_cfg=loop)
    train(cfg)
    assert any('  last       top-1 ' in line for line in lines)
    lines.clear()
    cfg.resume = True
    _, folder = train(cfg)
    meta = torch.load(folder / 'student.pth', weights_only=False)['meta']
    assert (meta['epoch'], meta['scores']) == (1, {})
    assert any('  last       not scored by validation\n' in line for line in lines)


@pytest.mark.parametrize('average', [False, True])
def test_the_best_student(train, tmp_path, lines, average):
    """Its checkpoint is the one with the highest score, which it still has."""
    cfg = distill_config(tmp_path, epochs=3, **SMALL)
    cfg.default_hooks.checkpoint.update(save_best='accuracy/top1', rule='less')
    if average:
        cfg.custom_hooks = [dict(type='StudentEMAHook', momentum=0.5)]
    runner, folder = train(cfg)
    logged = runner.message_hub.get_scalar('val/accuracy/top1').data[0]
    worst = int(logged.argmin())  # `rule` turns the order around
    meta = torch.load(folder / 'student_best.pth', weights_only=False)['meta']
    assert meta['epoch'] == worst + 1
    assert meta['scores'] == {'accuracy/top1': logged[worst]}
    (kept,) = folder.glob('best_accuracy_top1_epoch_*.pth')
    weights = torch.load(kept, weights_only=False)['state_dict']
    best = loaded(folder, 'student_best')
    for name, value in best.state_dict().items():
        assert torch.equal(value, weights[f'architecture.{name}']), name
    (line,) = [x for x in lines if x.startswith('The best student')]
    assert f'that of epoch {worst + 1}, accuracy/top1 {logged[worst]:.2f}' in line


@DATASETS.register_module()
class Nameless(torch.utils.data.Dataset):
    """A data set of PyTorch's, which knows no names of classes."""

    def __init__(self, **kwargs):
        self.digits = Digits(**kwargs)

    def __len__(self):
        return len(self.digits)

    def __getitem__(self, index):
        return self.digits[index]


def test_data_without_names_of_classes(train, tmp_path):
    cfg = distill_config(tmp_path, epochs=1, train_dataloader__dataset__type='Nameless')
    cfg.pop('val_dataloader'), cfg.pop('val_cfg'), cfg.pop('val_evaluator')
    _, folder = train(cfg)
    meta = torch.load(folder / 'student.pth', weights_only=False)['meta']
    assert meta['dataset_meta'] == meta['scores'] == {}
    assert loaded(folder).head.num_classes == 10


@pytest.mark.parametrize('validated', [True, False])
def test_names_of_classes_are_those_of_the_validation_or_the_teacher(
    train, tmp_path, validated
):
    cfg = distill_config(tmp_path, epochs=1, train_dataloader__dataset__type='Nameless')
    names = tuple('0123456789')
    if not validated:
        cfg.pop('val_dataloader'), cfg.pop('val_cfg'), cfg.pop('val_evaluator')
        names = tuple('abcdefghij')
        content = torch.load(cfg.model.teacher_ckpt, weights_only=False)
        content['meta'] = dict(dataset_meta=dict(classes=names))
        torch.save(content, cfg.model.teacher_ckpt)
    _, folder = train(cfg)
    for file in ('student', 'epoch_1'):  # from which a student may be extracted
        meta = torch.load(folder / f'{file}.pth', weights_only=False)['meta']
        assert meta['dataset_meta'] == dict(classes=names)
