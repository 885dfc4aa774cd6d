"""``tools/train.py --fast``: what is switched on, and what is left out and why."""

import uuid

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from tiny import CONFIGS, digits_config, distill_config
from tools_inside import run_tool

from cakd_mm.engine import launch
from cakd_mm.engine.hooks import StudentRuntimeHook
from cakd_mm.engine.launch import fast, fast_data, fast_nets
from cakd_mm.models.runtime import TeacherRuntime

TRAIN, VAL = 'resident training set', 'resident validation set'
STUDENT, TEACHER = 'compiled student', 'fast teacher'
BF16_TEACHER, BF16_STUDENT = 'bf16 teacher', 'bf16 student'
ALL_BF16 = [TRAIN, VAL, STUDENT, BF16_TEACHER, BF16_STUDENT]
VANILLA = 'vanilla/resnet8_digits.py'
VIEWS = 'mlkd/mlkd_r20_r8_digits.py'


class Machine:
    """A machine that is as fast as a test says.

    Attributes:
        half (dict): How many times as fast bf16 is, by whether the net is trained.
        seconds (float): For an image in float32.
        uncompiled (str): Why nothing can be compiled, if anything.
        timed (list): The nets that were timed, with image, batch and mode.
    """

    def __init__(self):
        self.half = {False: 2.0, True: 2.0}
        self.seconds = 1.0
        self.uncompiled = None
        self.timed = []

    def seconds_per_image(self, net, image, most, trains, *dtypes):
        self.timed.append((type(net).__name__, tuple(image.shape), most, trains))
        factors = [1.0 if x == torch.float32 else self.half[trains] for x in dtypes]
        return [self.seconds / factor for factor in factors]


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(fast_nets, 'seconds_per_image', machine.seconds_per_image)
    monkeypatch.setattr(fast_nets, 'why_not_compile', lambda _: machine.uncompiled)
    return machine


@pytest.fixture
def started(tmp_path, machine):
    """Return a function that builds a runner, makes it fast, and returns its log."""

    def start(cfg, level='lossless'):
        cfg.work_dir = str(tmp_path / 'run')
        cfg.launcher = 'none'
        cfg.experiment_name = uuid.uuid4().hex
        launch.adapt_to_device(cfg)
        hooks = cfg.default_hooks
        runner = launch.build_runner(cfg)
        lines = []
        runner.logger.info = lines.append
        launch.make_fast(runner, level, hooks)
        *_, last = [line for line in lines if line.startswith(f'--fast {level}: ')]
        start = f'--fast {level} leaves out the '
        said = [x.removeprefix(start) for x in lines if x.startswith(start)]
        return runner, dict(x.split(': ', 1) for x in said), last

    return start


@pytest.mark.parametrize(
    ('level', 'teacher', 'wrapper', 'parts'),
    [
        ('lossless', 'float32', None, [TRAIN, VAL, STUDENT, TEACHER]),
        ('bf16-teacher', 'bfloat16', None, [TRAIN, VAL, STUDENT, BF16_TEACHER]),
        ('bf16', 'bfloat16', 'BF16OptimWrapper', ALL_BF16),
    ],
)
def test_what_each_level_switches_on(level, teacher, wrapper, parts, tmp_path, started):
    runner, left_out, last = started(distill_config(tmp_path), level)
    assert left_out == {}
    assert runner.train_loop.dataloader.dataset.images.dtype == torch.uint8
    assert type(runner.val_loop).__name__ == 'ResidentValLoop'
    [hook] = [x for x in runner.hooks if isinstance(x, StudentRuntimeHook)]
    assert hook.compile
    assert isinstance(runner.model.teacher_runtime, TeacherRuntime)
    settings = runner.model.teacher_runtime.settings()
    assert (settings['dtype'], settings['strict']) == (teacher, False)
    assert settings['compile']
    assert runner.optim_wrapper.get('type') == wrapper
    # A run of the config that it leaves does the same without the option.
    [dumped] = (tmp_path / 'run').glob('*.py')
    cfg = Config.fromfile(dumped)
    assert cfg.fast == dict(level=level, parts=parts)
    assert cfg.train_cfg.resident is True
    assert cfg.val_cfg.type == 'ResidentValLoop'
    assert cfg.default_hooks.student_runtime.type == 'StudentRuntimeHook'
    assert cfg.model.teacher_runtime.dtype == teacher
    assert cfg.optim_wrapper.get('type') == wrapper
    [seen] = (tmp_path / 'run').glob('*/vis_data/config.py')
    assert Config.fromfile(seen).fast == cfg.fast
    for part in parts:
        assert part in last
    figures = 'an image takes 500.00 ms in bf16 and 1000.00 ms in float32'
    assert last.count(figures) == sum('bf16' in part for part in parts)


def config_of(folder, options):
    views = options.pop('views', None)
    if views is not None:
        return distill_config(folder, views, **options)
    name = options.pop('name', None)
    if name is not None:
        return digits_config(name, **options)
    return distill_config(folder, **options)


@pytest.mark.parametrize(
    ('options', 'part', 'reason'),
    [
        (dict(train_cfg__resident=False), TRAIN, 'the config sets train_cfg.resident'),
        (
            dict(train_cfg__type='EpochBasedTrainLoop'),
            TRAIN,
            "train_cfg.type='ResumableTrainLoop' could",
        ),
        (dict(train_dataloader__dataset__pipeline__1__type='ColorJitter'), TRAIN, 'x'),
        (
            dict(train_dataloader__collate_fn__type='resident_collate'),
            TRAIN,
            'would not be called',
        ),
        (
            dict(custom_hooks=[dict(type='SwitchRecipeHook', schedule=[])]),
            TRAIN,
            'SwitchRecipeHook',
        ),
        (dict(val_cfg__type='ValLoop'), VAL, 'the config sets val_cfg.type'),
        (dict(train_cfg__resident=False), VAL, 'the training set is not'),
        (dict(model__teacher_runtime=None), TEACHER, 'sets model.teacher_runtime'),
        (dict(model__teacher_mode='loss'), TEACHER, "model.teacher_mode='loss': "),
        (dict(compile=True), TEACHER, 'together with compile'),
        (dict(compile=True), STUDENT, 'together with compile'),
        (
            dict(default_hooks__student_runtime=None),
            STUDENT,
            'sets default_hooks.student_runtime',
        ),
        (dict(name=VANILLA), TEACHER, 'there is no teacher'),
        (dict(views=VIEWS), TRAIN, "= 'MultiView': Batches go through"),
    ],
)
def test_what_does_not_go_is_left_out(options, part, reason, tmp_path, started):
    given = dict(options)
    jitter = given.pop('train_dataloader__dataset__pipeline__1__type', None)
    cfg = config_of(tmp_path, given)
    if jitter:
        cfg.train_dataloader.dataset.pipeline[1] = dict(type=jitter, brightness=0.1)
        reason = 'ColorJitter'
    runner, left_out, last = started(cfg)
    assert reason in left_out[part]
    assert 'switch resident data off' not in left_out[part]
    assert part not in last
    assert part not in runner.cfg.fast.parts
    assert runner.train_loop.max_iters == 6  # it is to be trained all the same


def test_a_net_is_timed_on_all_views_of_a_batch(tmp_path, started, machine):
    started(distill_config(tmp_path, VIEWS, images=96, epochs=2))
    assert {(shape, most) for _, shape, most, _ in machine.timed} == {((3, 16, 16), 64)}


def test_a_loop_that_scores_the_teacher_too_keeps_its_type(tmp_path, started):
    cfg = distill_config(tmp_path, val_cfg__type='StudentTeacherValLoop')
    runner, left_out, _ = started(cfg)
    assert left_out == {}
    assert runner.cfg.val_cfg == dict(type='StudentTeacherValLoop', resident=True)
    assert hasattr(runner.val_loop.dataloader.dataset, 'images')


def test_a_set_that_is_large_for_the_memory(tmp_path, started, monkeypatch):
    """96 images of 16x16x3 bytes; those of validation are 64."""
    monkeypatch.setattr(fast_data, 'free_memory', lambda: 4 * 96 * 768 - 1)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '1')
    _, left_out, _ = started(distill_config(tmp_path))
    assert 'It takes' not in left_out[TRAIN]
    assert left_out[TRAIN].startswith('it takes 0 MB, where 0 MB of memory are free')
    monkeypatch.setattr(fast_data, 'free_memory', lambda: 4 * 96 * 768)
    _, left_out, _ = started(distill_config(tmp_path))
    assert left_out == {}
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')  # each rank has the set
    _, left_out, _ = started(distill_config(tmp_path))
    assert TRAIN in left_out


def test_images_of_several_sizes_are_found_late_and_read_from_files(
    tmp_path, started, machine
):
    machine.seconds = 100.0
    for name, size in (('a/0', 16), ('a/1', 18), ('b/0', 16), ('b/1', 16)):
        file = tmp_path / f'images/{name}.jpg'
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.zeros((size, size, 3), np.uint8))
    cfg = digits_config(VANILLA)
    cfg.train_dataloader.dataset = dict(
        type='CustomDataset',
        data_root=str(tmp_path / 'images'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    )
    cfg.train_dataloader.batch_size = 1
    runner, left_out, last = started(cfg)
    assert 'have one size' in left_out[TRAIN]
    assert VAL in left_out
    assert 'resident' not in runner.cfg.train_cfg
    assert runner.train_loop.max_iters == 8
    assert last == '--fast lossless: compiled student.'


@pytest.mark.parametrize(
    ('teacher', 'student', 'left', 'dtype', 'is_half'),
    [
        (2.0, 0.5, [BF16_STUDENT], 'bfloat16', False),
        (0.5, 2.0, [BF16_TEACHER], 'float32', True),
        (1.1, 1.1, [BF16_TEACHER, BF16_STUDENT], 'float32', False),
    ],
)
def test_half_precision_that_does_not_pay(
    teacher, student, left, dtype, is_half, tmp_path, started, machine
):
    machine.half = {False: teacher, True: student}
    machine.seconds = 0.25
    runner, left_out, last = started(distill_config(tmp_path), 'bf16')
    assert list(left_out) == left
    assert runner.model.teacher_runtime.dtype == dtype
    assert (runner.optim_wrapper.get('type') == 'BF16OptimWrapper') == is_half
    for part, text in left_out.items():
        ratio = teacher if part == BF16_TEACHER else student
        own = f'{250 / ratio:.2f} ms in bf16 and 250.00 ms in float32.'
        assert text == f'it does not pay here: an image takes {own}'
    assert ('in bf16 and 250.00 ms in float32' in last) == (len(left) < 2)
    sizes = [(3, 16, 16), 32]
    assert [list(x[1:3]) for x in machine.timed] == [sizes, sizes]


def test_what_was_measured_holds_for_a_run_that_is_gone_on_with(
    tmp_path, started, machine
):
    machine.half = {False: 0.5, True: 2.0}
    first, *_ = started(distill_config(tmp_path), 'bf16')
    checkpoint = tmp_path / 'epoch_1.pth'
    torch.save(
        dict(meta=dict(cfg=first.cfg.pretty_text), state_dict=dict(x=torch.ones(1))),
        checkpoint,
    )
    machine.half, machine.seconds = {False: 2.0, True: 0.5}, 1e-6
    cfg = distill_config(tmp_path, load_from=str(checkpoint), resume=True)
    machine.timed.clear()
    runner, left_out, _ = started(cfg, 'bf16')
    assert left_out == {BF16_TEACHER: 'the run has begun without it.'}
    assert runner.cfg.fast == first.cfg.fast
    assert runner.model.teacher_runtime.settings() == (
        first.model.teacher_runtime.settings()
    )
    assert machine.timed == []
    # Another level is another choice.
    cfg = distill_config(tmp_path, load_from=str(checkpoint), resume=True)
    assert STUDENT in started(cfg, 'lossless')[1]


def test_a_checkpoint_names_no_parts_of_its_own(tmp_path):
    file = tmp_path / 'x.pth'
    text = "fast = dict(level='bf16', parts=['custom_imports', 'fast teacher', 3])"
    torch.save(dict(meta=dict(cfg=text), state_dict=dict(x=torch.ones(1))), file)
    cfg = Config(dict(resume=True, load_from=str(file)))
    assert fast._parts_before(cfg, 'bf16') == ['fast teacher']
    assert fast._parts_before(cfg, 'lossless') is None


def test_short_runs_are_not_compiled(tmp_path, started, machine):
    """Six steps of 32 images by two nets."""
    machine.seconds = fast_nets.SHORT / (6 * 32 * 2) * 0.99
    runner, left_out, last = started(distill_config(tmp_path), 'bf16-teacher')
    assert list(left_out) == [STUDENT]
    assert 'the whole run takes some 59 s' in left_out[STUDENT]
    # Half precision pays without.
    assert runner.model.teacher_runtime.compile is False
    assert BF16_TEACHER in last
    machine.seconds *= 1.02
    assert started(distill_config(tmp_path))[1] == {}


def test_a_machine_that_cannot_compile(tmp_path, started, machine):
    machine.uncompiled = 'No C++ compiler.'
    runner, left_out, _ = started(distill_config(tmp_path))
    assert left_out == {STUDENT: 'No C++ compiler.', TEACHER: 'No C++ compiler.'}
    assert runner.model.teacher_runtime is None
    assert not any(isinstance(x, StudentRuntimeHook) for x in runner.hooks)


def test_another_rank_has_a_say(tmp_path, started, machine, monkeypatch):
    def exchange(own):
        other = 'rank 1 has none.' if own is None else own
        return [own, [4.0 * x for x in own] if isinstance(own, list) else other]

    monkeypatch.setattr(fast_nets, 'exchange', exchange)
    _, _, last = started(distill_config(tmp_path), 'bf16-teacher')
    assert 'an image takes 1250.00 ms in bf16 and 2500.00 ms in float32' in last
    monkeypatch.setattr(fast, 'exchange', exchange)
    runner, left_out, last = started(distill_config(tmp_path))
    assert {*left_out.values()} == {
        'rank 1 has none.',
        'the training set is not kept in memory, either.',
    }
    assert last == '--fast lossless: nothing.'
    assert runner.cfg.fast.parts == []


@pytest.mark.parametrize('wrapper', ['AmpOptimWrapper', 'OptimWrapper'])
def test_mixed_precision_of_the_config(wrapper, tmp_path, started):
    cfg = distill_config(tmp_path, optim_wrapper__type=wrapper)
    runner, left_out, _ = started(cfg, 'bf16')
    is_half = wrapper == 'AmpOptimWrapper'
    assert list(left_out) == [BF16_STUDENT] * is_half
    runner, *_ = started(distill_config(tmp_path, optim_wrapper__type=wrapper))
    dtype = 'auto' if is_half else 'float32'
    assert runner.model.teacher_runtime.dtype == dtype


def test_mmrazors_own_distillation(tmp_path, started, machine):
    cfg = distill_config(tmp_path)
    cfg.model.type = 'SingleTeacherDistill'
    cfg.model.distiller.type = 'ConfigurableDistiller'
    cfg.model.data_preprocessor = dict(type='mmpretrain.ClsDataPreprocessor')
    for key in ('teacher_from', 'teacher_ckpt'):
        cfg.model.pop(key, None)
    _, left_out, last = started(cfg)
    assert "model.type='FrozenTeacherDistill' could" in left_out.pop(TEACHER)
    assert left_out == {}
    assert STUDENT in last


@pytest.mark.parametrize(
    ('words', 'spelled'),
    [
        ('--fast a.py', '--fast=lossless a.py'),
        ('a.py --fast', 'a.py --fast=lossless'),
        ('--fast cakd_mm::cakd/a.py', '--fast=lossless cakd_mm::cakd/a.py'),
        ('a.py --fast --resume', 'a.py --fast=lossless --resume'),
        ('a.py --fast bf16 --amp', 'a.py --fast bf16 --amp'),
        ('a.py --fast bf17', 'a.py --fast bf17'),
        ('a.py --fast=bf16', 'a.py --fast=bf16'),
    ],
)
def test_a_bare_option_takes_no_config_for_its_level(words, spelled):
    assert launch.spelled_out(words.split()) == spelled.split()


def test_the_tool(tmp_path, monkeypatch, capsys):
    """A short run of real nets: images in memory, and nothing compiled."""
    size = ('train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=64')
    work_dir = tmp_path / 'a run'
    run_tool(
        monkeypatch,
        'train.py',
        *('--fast', CONFIGS / VANILLA, '--work-dir', work_dir, '--cfg-options', *size),
    )
    cfg = Config.fromfile(work_dir / 'resnet8_digits.py')
    assert cfg.fast == dict(level='lossless', parts=[TRAIN, VAL])
    with pytest.raises(SystemExit):
        run_tool(monkeypatch, 'train.py', CONFIGS / VANILLA, '--fast', 'bf17')
    assert "invalid choice: 'bf17'" in capsys.readouterr().err
