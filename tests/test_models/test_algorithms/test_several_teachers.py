"""A list of teachers teaches as their average, and each stays what it is."""

import copy
import uuid

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tiny import CONFIGS, algorithm, batch_of, build, digits_config

from cakd_mm.models.algorithms.teacher_ensemble import AveragingHead, TeacherEnsemble
from cakd_mm.models.recorders.widths import channels_of
from cakd_mm.models.taps import points_of

DEPTHS = dict(big=20, small=8)
AVERAGES = ('logits', 'probabilities')


def net_of(depth, classes=10):
    net = Config.fromfile(CONFIGS / 'vanilla/resnet20_digits.py').model
    net.backbone.depth = depth
    net.head.num_classes = classes
    return net


def weights_of(folder, name, depth, seed=0, meta=None, classes=10):
    """Write the weights of a teacher whose scores differ from image to image."""
    torch.manual_seed(seed)
    net = build(net_of(depth, classes))
    net.init_weights()
    torch.nn.init.normal_(net.head.fc.weight, std=0.5)
    path = folder / f'{name}.pth'
    torch.save(dict(meta=meta or {}, state_dict=net.state_dict()), path)
    return str(path)


def entries(folder, **options):
    return [
        dict(name=name, net=net_of(depth), ckpt=weights_of(folder, name, depth, seed))
        | options
        for seed, (name, depth) in enumerate(DEPTHS.items())
    ]


def config(folder, teachers=None, average='logits'):
    cfg = digits_config('cakd/demo_digits.py')
    model = cfg.model
    for key in ('teacher', 'teacher_ckpt', 'teacher_from'):
        model.pop(key, None)
    model.teacher = entries(folder) if teachers is None else teachers
    model.teacher_average = average
    return cfg


@pytest.mark.parametrize('average', AVERAGES)
def test_the_losses_are_those_of_scores_averaged_by_hand(tmp_path, average):
    teachers = entries(tmp_path)
    teachers[0]['weight'] = 3.0
    model = algorithm(config(tmp_path, teachers, average)).double()
    data = batch_of(model)
    inputs = data['inputs'].double()
    student = copy.deepcopy(model.student)
    losses = model(inputs, data['data_samples'], mode='loss')
    scores = []
    for entry in teachers:
        net = build(entry['net']).double().eval()
        net.load_state_dict(torch.load(entry['ckpt'])['state_dict'])
        scores.append(net(inputs, mode='tensor').detach())
    if average == 'logits':
        mean = (3 * scores[0] + scores[1]) / 4
    else:
        mean = ((3 * scores[0].softmax(1) + scores[1].softmax(1)) / 4).log()
    labels = torch.cat([sample.gt_label for sample in data['data_samples']])
    loss = copy.deepcopy(model.distiller.distill_losses['loss_cakd'])
    expected = loss(student(inputs, mode='tensor'), mean, labels)
    torch.testing.assert_close(
        losses['distill.loss_cakd'], expected, rtol=1e-10, atol=1e-12
    )
    assert expected > 1e-3
    predicted = model.teacher(inputs, mode='predict')
    found = torch.stack([sample.pred_score for sample in predicted])
    torch.testing.assert_close(found, mean.softmax(1))


def test_probabilities_of_huge_scores_are_finite():
    head = AveragingHead('probabilities', [1.0, 1.0])
    scores = [torch.tensor([[1e12, 0.0]]), torch.tensor([[-1e12, 0.0]])]
    torch.testing.assert_close(head(scores).softmax(1), torch.tensor([[0.5, 0.5]]))


def test_features_are_those_of_a_named_teacher(tmp_path):
    cfg = config(tmp_path)
    recorders = cfg.model.distiller.teacher_recorders
    recorders.neck = dict(type='ModuleOutputs', source='small.neck')
    recorders.stage = dict(type='Tap', source='big.stage1_pre')
    recorders.scale = dict(type='TapParameter', source='big.stage2_norm.weight')
    model = algorithm(cfg)
    data = batch_of(model)
    model(**data, mode='loss')
    big, small = model.teacher.big, model.teacher.small
    found = model.distiller.teacher_recorders
    torch.testing.assert_close(
        found.get_recorder('neck').get_record_data(data_idx=0),
        small.neck(small.backbone(data['inputs']))[0],
    )
    assert found.get_recorder('scale').get_record_data() is (
        big.get_submodule(points_of(big)['stage2_norm'].module).weight
    )
    stage = found.get_recorder('stage').get_record_data()
    torch.testing.assert_close(stage.relu(), seen_at(big, 'stage1', data['inputs']))


def seen_at(net, point, inputs):
    seen = []
    module = net.get_submodule(points_of(net)[point].module)
    hook = module.register_forward_hook(lambda m, a, out: seen.append(out))
    net(inputs, mode='tensor')
    hook.remove()
    return seen[-1][0] if isinstance(seen[-1], tuple) else seen[-1]


def test_widths_are_read_off_the_named_teacher(tmp_path):
    cfg = config(tmp_path)
    cfg.model.distiller = Config.fromfile(CONFIGS / '_base_/methods/ofd.py').distiller
    for recorder in cfg.model.distiller.teacher_recorders.values():
        recorder.source = f'small.{recorder.source}'
    model = algorithm(cfg)
    assert model(**batch_of(model), mode='loss')['distill.loss_ofd'] > 0


def test_widths_of_a_neck_and_of_the_average(tmp_path):
    teacher = algorithm(config(tmp_path)).teacher
    expected = {'small.neck': 64, 'big.backbone.stage1': 16, 'head': 10}
    for source, width in expected.items():
        recorder = dict(type='ModuleOutputs', source=source)
        assert channels_of(teacher, recorder, {}) == width, source


def test_a_wrong_source_names_those_that_there_are(tmp_path):
    for kind, source in (('Tap', 'big.stage9'), ('ModuleOutputs', 'big.necks')):
        cfg = config(tmp_path)
        cfg.model.distiller.teacher_recorders.x = dict(type=kind, source=source)
        with pytest.raises(ValueError, match=rf'{source}.*big\.(stage1|neck)'):
            algorithm(cfg)


def test_a_list_of_one_is_that_teacher(tmp_path):
    teachers = entries(tmp_path)[:1]
    cfg = config(tmp_path, teachers, None)
    del cfg.model.teacher[0]['name']
    model = algorithm(cfg)
    data = batch_of(model)
    assert torch.equal(
        model.teacher(data['inputs']),
        getattr(model.teacher, '0')(data['inputs'], mode='tensor'),
    )


def test_the_fast_teacher_is_the_ensemble(tmp_path):
    teachers = entries(tmp_path)
    teachers[1]['net'].data_preprocessor = dict(mean=[9.0], std=[3.0], size=20)
    losses = []
    for runtime in (None, dict(compile=False), dict(compile=False, dtype='bfloat16')):
        cfg = config(tmp_path, copy.deepcopy(teachers), 'probabilities')
        cfg.model.teacher_runtime = runtime
        model = algorithm(cfg)
        losses.append(model(**batch_of(model), mode='loss')['distill.loss_cakd'])
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0], rtol=0.1, atol=0)


class TestCheckpoints:
    """Every teacher is identified in a checkpoint."""

    def test_round_trip(self, tmp_path):
        source, target = (algorithm(config(tmp_path)) for _ in range(2))
        state = source.state_dict()
        assert not [name for name in state if name.startswith('teacher.')]
        assert state['teacher_sha256'].shape == (2, 32)
        missing, unexpected = target.load_state_dict(state)
        assert not missing and not unexpected

    def test_the_one_that_differs_is_named(self, tmp_path):
        state = algorithm(config(tmp_path)).state_dict()
        teachers = entries(tmp_path)
        teachers[1]['ckpt'] = weights_of(tmp_path, 'new', DEPTHS['small'], 7)
        other = algorithm(config(tmp_path, teachers))
        match = r'`model\.teacher\.1\.ckpt` = .*new\.pth.*small\.pth.*SHA-256 differs'
        with pytest.raises(ValueError, match=match):
            other.load_state_dict(dict(state))
        alone = algorithm(config(tmp_path, teachers[:1]))
        match = r'`model\.teacher` = .*other teachers.*big\.pth.*small\.pth'
        with pytest.raises(ValueError, match=match):
            alone.load_state_dict(dict(state))

    def test_a_random_one_beside_a_loaded_one_is_kept(self, tmp_path):
        teachers = entries(tmp_path)
        teachers[0]['ckpt'] = None
        models = []
        for _ in range(2):
            cfg = config(tmp_path, teachers)
            cfg.model.allow_random_teacher = True
            models.append(algorithm(cfg))
            torch.nn.init.normal_(models[-1].teacher.big.head.fc.weight)
        source, target = models
        target.load_state_dict(source.state_dict())
        found, wanted = (x.teacher.big.head.fc.weight for x in (target, source))
        assert torch.equal(found, wanted)
        state = source.state_dict()
        state['teacher.small.head.fc.weight'] = wanted
        with pytest.raises(ValueError, match=r'model\.teacher\.1\.ckpt.*SHA-256'):
            target.load_state_dict(state)

    @pytest.mark.parametrize(
        ('change', 'match'),
        [
            (dict(weight=3.0), r'teacher\.0\.weight` = 0\.75: .*with 0\.5, as a share'),
            (
                dict(classes=[1, 0, *range(2, 10)]),
                r'teacher\.0\.classes` = \[1, 0, .*with None\.',
            ),
            (None, r"teacher_average` = 'probabilities': .*with 'logits'"),
        ],
    )
    def test_what_else_differs_is_named(self, tmp_path, change, match):
        teachers = entries(tmp_path)
        state = algorithm(config(tmp_path, copy.deepcopy(teachers))).state_dict()
        teachers[0].update(change or {})
        average = 'logits' if change else 'probabilities'
        other = algorithm(config(tmp_path, teachers, average))
        with pytest.raises(ValueError, match=match):
            other.load_state_dict(dict(state))
        del state['teacher_choice']  # of a release before this one
        if 'classes' not in (change or {}):  # its hash was another one then
            other.load_state_dict(state)

    def test_the_same_shares_are_the_same(self, tmp_path):
        models = []
        for weights in ((1.0, 2.0), (0.3, 0.6)):
            teachers = entries(tmp_path)
            for entry, weight in zip(teachers, weights, strict=True):
                entry['weight'] = weight
            models.append(algorithm(config(tmp_path, teachers)))
        models[1].load_state_dict(models[0].state_dict())


@pytest.mark.parametrize('average', AVERAGES)
def test_scores_in_half_precision_are_averaged_in_single(average):
    head = AveragingHead(average, [1.0, 1.0, 1.0])
    scores = [torch.randn(4, 10).to(torch.bfloat16) for _ in range(3)]
    found = head(scores)
    assert found.dtype == torch.float32
    assert torch.equal(found, head([one.float() for one in scores]))


@pytest.mark.parametrize('average', AVERAGES)
def test_heads_of_two_kinds_are_not_averaged(average):
    nets = dict(a=build(net_of(8)))
    several = dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=64)
    nets['b'] = build(dict(net_of(8), head=several))
    with pytest.raises(ValueError, match=r'teacher_average.*use teachers of one kind'):
        TeacherEnsemble(nets, average, [1.0, 1.0])


def test_a_run_with_teachers_is_scored_resumed_and_extracted(tmp_path):
    cfg = config(tmp_path, average='probabilities')
    cfg.merge_from_dict(
        dict(
            work_dir=str(tmp_path / 'run'),
            experiment_name=uuid.uuid4().hex,
            launcher='none',
            val_cfg=dict(type='StudentTeacherValLoop'),
        )
    )
    cfg.train_cfg.max_epochs = 1
    runner = Runner.from_cfg(copy.deepcopy(cfg))
    runner.train()
    scores = runner.message_hub.log_scalars
    assert scores['val/teacher/accuracy/top1'].current() >= 0
    assert (tmp_path / 'run/student.pth').is_file()
    cfg.train_cfg.max_epochs, cfg.resume = 2, True
    cfg.experiment_name = uuid.uuid4().hex
    cfg.load_from = str(tmp_path / 'run/epoch_1.pth')
    again = Runner.from_cfg(cfg)
    again.train()
    assert again.epoch == 2


class TestUserErrors:
    @pytest.mark.parametrize(
        ('change', 'error', 'match'),
        [
            (dict(teacher_average=None), ValueError, 'teacher_average.*probabilities'),
            (dict(teacher_ckpt='x.pth'), ValueError, r'teacher_ckpt.*x\.pth.*ckpt in'),
            (dict(teacher_from='x'), ValueError, r'model\.teacher_from.*made_by in'),
            (dict(teacher_classes=[0]), ValueError, r'teacher_classes.*classes in'),
            (dict(teacher_mode='loss'), ValueError, r'model\.teacher_mode'),
            (dict(teacher=[]), ValueError, r'`model\.teacher` = \[\]'),
        ],
    )
    def test_beside_a_list(self, tmp_path, change, error, match):
        cfg = config(tmp_path)
        cfg.model.update(change)
        with pytest.raises(error, match=match):
            algorithm(cfg)

    @pytest.mark.parametrize(
        ('change', 'error', 'match'),
        [
            (dict(name='big'), ValueError, r'teacher\.1\.name.*this name'),
            (dict(name='a.b'), ValueError, r'teacher\.1\.name.*dot'),
            (dict(name='head'), ValueError, r'teacher\.1\.name.*this name'),
            (dict(weight=0.0), ValueError, r'teacher\.1\.weight'),
            (dict(weight=-1.0), ValueError, r'teacher\.1\.weight'),
            (dict(weights=1.0), TypeError, r"teacher\.1\.weights.*'weight'"),
            (dict(ckpt=None), ValueError, r'teacher\.1\.ckpt.*allow_random'),
            (dict(ckpt='no.pth'), FileNotFoundError, r'teacher\.1\.ckpt.*no\.pth'),
            (dict(net=net_of(20)), ValueError, r'teacher\.1\.ckpt.*missing keys'),
        ],
    )
    def test_in_an_entry(self, tmp_path, change, error, match):
        teachers = entries(tmp_path)
        teachers[1].update(change)
        with pytest.raises(error, match=match):
            algorithm(config(tmp_path, teachers))

    def test_teachers_that_name_their_classes_otherwise(self, tmp_path):
        teachers = entries(tmp_path)
        for entry, names in zip(teachers, ('0123456789', '0213456789'), strict=True):
            meta = dict(dataset_meta=dict(classes=tuple(names)))
            depth = DEPTHS[entry['name']]
            entry['ckpt'] = weights_of(tmp_path, entry['name'], depth, meta=meta)
        match = r"teacher\.1\.ckpt.*class 1 '2'.*calls it '1'.*teacher\.1\.classes"
        with pytest.raises(ValueError, match=match):
            algorithm(config(tmp_path, teachers))
        teachers[1]['classes'] = list('0123456789')
        model = algorithm(config(tmp_path, teachers))
        found = [names.scored for names in model.teacher_class_names]
        assert found == [tuple('0123456789')] * 2

    def test_the_average_of_one_teacher(self, tmp_path):
        cfg = config(tmp_path)
        first = cfg.model.teacher[0]
        cfg.model.update(teacher=first['net'], teacher_ckpt=first['ckpt'])
        with pytest.raises(ValueError, match=r'teacher_average.*one teacher'):
            algorithm(cfg)

    def test_a_teacher_of_more_classes(self, tmp_path):
        teachers = entries(tmp_path)
        ckpt = weights_of(tmp_path, 'more', 8, classes=12)
        teachers[1].update(net=net_of(8, 12), ckpt=ckpt)
        match = r'teacher\.1\.net\.head\.num_classes` = 12.*scores 10.*classes='
        with pytest.raises(ValueError, match=match):
            algorithm(config(tmp_path, teachers))
        teachers[1]['classes'] = [*range(2, 12)]
        model = algorithm(config(tmp_path, teachers))
        assert isinstance(model.teacher, TeacherEnsemble)
        assert model.teacher.head.num_classes == 10
