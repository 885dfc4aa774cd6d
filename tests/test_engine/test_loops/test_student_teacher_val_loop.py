import copy

import pytest
import torch
from mmengine.hooks import Hook
from tiny import digits_config, distill_config


@pytest.fixture
def start(tmp_path, make_runner):
    """Build a runner that validates with the loop on three batches."""

    def build(type='StudentTeacherValLoop', config=distill_config, hooks=(), **options):
        args = (tmp_path,) if config is distill_config else (config,)
        load = distill_config if config is distill_config else digits_config
        cfg = load(*args, images=32, epochs=1, val_dataloader__batch_size=48, **options)
        cfg.val_dataloader.dataset.indices = 128
        cfg.val_cfg = dict(type=type) if type else dict()
        cfg.custom_hooks = list(hooks)
        cfg.default_hooks.pop('extract')
        return make_runner(cfg)

    return build


def always(net, label):
    """Make ``net`` answer ``label``, so that its score is like no other's."""
    net.head.fc.bias.data[label] = 1e3


@torch.no_grad()
def top1(runner, net):
    """Percent of the validation images that ``net`` gets right."""
    right = []
    for batch in runner.val_dataloader:
        data = runner.model.data_preprocessor(batch, False)
        scores = net.eval()(data['inputs'], mode='tensor')
        labels = torch.cat([sample.gt_label for sample in data['data_samples']])
        right.append(scores.argmax(1) == labels)
    return 100 * torch.cat(right).double().mean().item()


def test_both_are_scored(start):
    runner = start()
    student, teacher = runner.model.student, runner.model.teacher
    always(student, 2)
    always(teacher, 1)
    seen = []

    class Watch(Hook):
        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.append((batch_idx, len(outputs)))

        def after_val_epoch(self, runner, metrics=None):
            seen.append(sorted(metrics))

    runner.register_hook(Watch())
    metrics = runner.val()
    assert metrics == pytest.approx(
        {
            'accuracy/top1': top1(runner, student),
            'teacher/accuracy/top1': top1(runner, teacher),
        }
    )
    assert metrics['accuracy/top1'] != metrics['teacher/accuracy/top1']
    # Hooks see the student's batches, and all metrics.
    assert seen == [(0, 48), (1, 48), (2, 32), sorted(metrics)]


def test_a_teacher_sees_images_of_its_own(start):
    own = dict(mean=[150.0], std=[9.0], size=24)
    runner = start(model__teacher__data_preprocessor=own)
    seen = []
    backbone = runner.model.teacher.backbone
    backbone.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    runner.val()
    assert [tuple(images.shape[2:]) for images in seen] == [(24, 24)] * 3
    batch = next(iter(runner.val_dataloader))
    made = runner.model.data_preprocessor(batch, False)['inputs']
    torch.testing.assert_close(seen[0], runner.model.teacher_image_map(made))


def test_while_training_the_log_has_both(start):
    runner = start()
    runner.train()
    hub = runner.message_hub
    student, teacher = runner.model.student, runner.model.teacher
    for name, net in (('accuracy/top1', student), ('teacher/accuracy/top1', teacher)):
        assert hub.get_scalar(f'val/{name}').current() == pytest.approx(
            top1(runner, net)
        )
    assert not [p for p in teacher.parameters() if p.grad is not None]


@pytest.mark.parametrize('type', ['ValLoop', None])
def test_otherwise_the_student_alone_is_scored(start, type):
    runner = start(type)
    runner.model.teacher.forward = None  # never called
    assert runner.val() == pytest.approx(
        {'accuracy/top1': top1(runner, runner.model.student)}
    )


def test_the_average_is_scored_and_the_raw_student_comes_back(start):
    runner = start(hooks=[dict(type='StudentEMAHook', momentum=0.3)])
    before = {}

    class Watch(Hook):
        def before_val(self, runner):
            always(ema.ema_model.module, 2)
            always(runner.model.student, 1)
            before.update(copy.deepcopy(runner.model.state_dict()))

    runner.register_hook(Watch())
    (ema,) = (h for h in runner.hooks if type(h).__name__ == 'StudentEMAHook')
    runner.train()
    assert before
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    hub = runner.message_hub
    score = hub.get_scalar('val/accuracy/top1').current()
    assert score == pytest.approx(top1(runner, ema.ema_model.module))
    assert score != top1(runner, runner.model.student)
    assert hub.get_scalar('val/teacher/accuracy/top1').current() == pytest.approx(
        top1(runner, runner.model.teacher)
    )


def test_a_model_without_teacher_is_refused(start):
    runner = start(config='vanilla/resnet8_digits.py')
    match = (
        "`val_cfg.type` = 'StudentTeacherValLoop': ImageClassifier has no teacher to "
        r'score. Write val_cfg=dict\(\)'
    )
    with pytest.raises(ValueError, match=match):
        runner.val()
