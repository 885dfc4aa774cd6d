"""Teachers of other projects: in lists, of other classes, and without a classifier."""

import copy

import pytest
import torch
from mmengine.config import Config
from tiny import CONFIGS, SMALL_TRANSFORMER, algorithm, batch_of, build, digits_config

from cakd_mm.models.algorithms.teacher_classes import ClassNames, choose_classes
from cakd_mm.models.distillers import head_trial
from cakd_mm.models.taps import (
    classes_key,
    classes_of,
    classifier_of,
    gives_scores,
    points_of,
)

timm = pytest.importorskip('timm')

OWN_IMAGES = dict(mean=[9.0] * 3, std=[3.0] * 3, size=24)
DINO = dict(
    type='TimmClassifier',
    model_name='test_vit',
    num_classes=0,
    img_size=24,
    patch_size=4,
    reg_tokens=2,
)
RESNET = dict(type='TimmClassifier', model_name='test_resnet', num_classes=10)
CIFAR = dict(
    type='ImageClassifier',
    backbone=dict(type='CIFARResNet', depth=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
NETS = dict(dino=DINO, timm=RESNET, cifar=CIFAR)


def entry_of(folder, name, **options):
    """Write the weights of a teacher as its project does; return its entry."""
    torch.manual_seed(len(name))
    net = dict(NETS[name], **options.pop('net', {}))
    built = build(net)
    path = str(folder / f'{name}.pth')
    torch.save(built.state_dict(), path)
    if name == 'dino':
        net['data_preprocessor'] = OWN_IMAGES
    return dict(name=name, net=net, ckpt=path, **options)


def config(folder, names, average=None, logits=True, feature='dino.model', **options):
    """Return a config of teachers for a loss between logits and one of a feature."""
    cfg = digits_config('cakd/demo_digits.py')
    for key in ('teacher', 'teacher_ckpt', 'teacher_from'):
        cfg.model.pop(key, None)
    teachers = [entry_of(folder, name, **options.get(name, {})) for name in names]
    cfg.model.update(teacher=teachers, teacher_average=average)
    parts = cfg.model.distiller
    if not logits:
        for group in ('teacher_recorders', 'distill_losses', 'loss_forward_mappings'):
            parts[group].clear()
    if feature is not None:
        parts.student_recorders.neck = dict(type='ModuleOutputs', source='neck')
        parts.teacher_recorders.feature = dict(type='ModuleOutputs', source=feature)
        parts.distill_losses.loss_feature = dict(type='FeatureKLLoss', tau=4.0)
        parts.loss_forward_mappings.loss_feature = dict(
            preds_S=dict(recorder='neck', from_student=True, data_idx=0),
            preds_T=dict(recorder='feature', from_student=False),
        )
    return cfg


def loaded(entry):
    net = build({k: v for k, v in entry['net'].items() if k != 'data_preprocessor'})
    net.load_state_dict(torch.load(entry['ckpt']))
    return net.eval()


@torch.no_grad()
def test_features_of_one_and_logits_of_another(tmp_path):
    cfg = config(tmp_path, ('dino', 'timm'))
    dino, resnet = map(loaded, cfg.model.teacher)
    model = algorithm(cfg)
    data = batch_of(model)
    student = copy.deepcopy(model.student)
    seen = []
    student.neck.register_forward_hook(lambda net, args, output: seen.append(output))
    scores = student(data['inputs'], mode='tensor')
    losses = model(**data, mode='loss')
    labels = torch.cat([sample.gt_label for sample in data['data_samples']])
    own = resnet(data['inputs'], mode='tensor')
    assert torch.equal(model.teacher(data['inputs']), own)
    parts = model.distiller.distill_losses
    torch.testing.assert_close(
        losses['distill.loss_cakd'], parts['loss_cakd'](scores, own, labels)
    )
    mapped = model.teacher.image_maps['dino'](data['inputs'])
    assert mapped.shape[2:] == (24, 24)
    torch.testing.assert_close(
        losses['distill.loss_feature'],
        parts['loss_feature'](seen[0][0], dino(mapped, mode='tensor')),
    )
    predicted = model.teacher(data['inputs'], mode='predict')
    found = torch.stack([sample.pred_score for sample in predicted])
    torch.testing.assert_close(found, own.softmax(1))


def test_those_with_a_classifier_are_averaged(tmp_path):
    names = 'timm', 'dino', 'cifar'
    with pytest.raises(ValueError, match='teacher_average.* 2 teachers with a class'):
        algorithm(config(tmp_path, names))
    cfg = config(tmp_path, names, 'logits', timm=dict(weight=3.0))
    nets = [loaded(entry) for entry in cfg.model.teacher]
    model = algorithm(cfg)
    images = batch_of(model)['inputs']
    timms, _, cifars = (net(images, mode='tensor') for net in nets)
    torch.testing.assert_close(model.teacher(images), (3 * timms + cifars) / 4)


def test_none_with_a_classifier(tmp_path):
    model = algorithm(config(tmp_path, ['dino'], logits=False))
    assert model(**batch_of(model), mode='loss')['distill.loss_feature'] > 0
    match = r'teacher_recorders\.logits\.source.*no classifier'
    with pytest.raises(ValueError, match=match):
        algorithm(config(tmp_path, ['dino']))


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(dino=dict(weight=1.0)), r'model\.teacher\.0\.weight` = 1\.0: .*no class'),
        (dict(dino=dict(classes=[0])), r'model\.teacher\.0\.classes.*no classifier'),
        (dict(average='logits'), r'model\.teacher_average.*No teacher of the list'),
    ],
)
def test_what_only_scores_need_is_refused(tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        algorithm(config(tmp_path, ['dino'], logits=False, **options))


def test_a_teacher_of_features_is_not_scored(tmp_path, make_runner):
    cfg = config(tmp_path, ['dino'], logits=False)
    cfg.val_cfg = dict(type='StudentTeacherValLoop')
    with pytest.raises(ValueError, match=r'val_cfg\.type.*no classifier'):
        make_runner(cfg).val()


def test_images_of_another_size_are_named(tmp_path):
    fixed = dict(net=dict(dynamic_img_size=False))
    cfg = config(tmp_path, ('dino', 'timm'), dino=fixed)
    cfg.model.teacher[0].net.pop('data_preprocessor')
    model = algorithm(cfg)
    match = r'model\.teacher\.0\.net\.data_preprocessor\.size` = None.* Input height'
    with pytest.raises(ValueError, match=match):
        model(**batch_of(model), mode='loss')


@pytest.mark.parametrize('options', [{}, dict(save_teacher=True)])
def test_checkpoints(tmp_path, options):
    cfg = config(tmp_path, ('dino', 'timm'))
    cfg.model.update(options)
    source, target = (algorithm(copy.deepcopy(cfg)) for _ in range(2))
    state = source.state_dict()
    kept = [name for name in state if name.startswith('teacher.')]
    assert bool(kept) is bool(options)
    target.load_state_dict(copy.deepcopy(state))
    images = batch_of(source)['inputs']
    assert torch.equal(target.teacher(images), source.teacher(images))
    changed = torch.load(cfg.model.teacher[0].ckpt)
    changed['cls_token'] += 1
    torch.save(changed, cfg.model.teacher[0].ckpt)
    with pytest.raises(ValueError, match=r'teacher\.0\.ckpt.*SHA-256 differs'):
        algorithm(cfg).load_state_dict(dict(state))


def test_the_fast_teacher_records_the_same(tmp_path):
    losses = []
    for runtime in (None, dict(compile=False)):
        cfg = config(tmp_path, ('dino', 'timm'))
        cfg.model.teacher_runtime = runtime
        model = algorithm(cfg)
        losses.append(model(**batch_of(model), mode='loss'))
    for name in ('distill.loss_cakd', 'distill.loss_feature'):
        torch.testing.assert_close(*(each[name] for each in losses))


def alone(folder, net, **options):
    """Return a config of one teacher, whose weights are those that torch draws."""
    torch.manual_seed(1)
    built = build(net)
    torch.save(built.state_dict(), folder / 'alone.pth')
    cfg = digits_config('cakd/demo_digits.py')
    cfg.model.teacher_ckpt = str(folder / 'alone.pth')
    cfg.model.teacher = dict(net, _scope_='mmpretrain')
    cfg.model.update(options)
    cfg.model.distiller.teacher_recorders.logits.source = 'model'
    return cfg


MORE = dict(RESNET, num_classes=12)


class TestClasses:
    """The number of classes is known of every kind, and named by its own key."""

    def test_of_a_teacher(self, tmp_path):
        match = (
            r'`model\.architecture\.head\.num_classes` = 10: .* 12 .*'
            r'Give model\.teacher\.num_classes and .*model\.teacher_classes=.*'
            r'model\.teacher\.num_classes=0'
        )
        with pytest.raises(ValueError, match=match):
            algorithm(alone(tmp_path, MORE))
        # A file with a classifier fits the net without one.
        cfg = alone(tmp_path, MORE)
        cfg.model.teacher.num_classes = 0
        base = CONFIGS / '_base_/methods/cakd_feature.py'
        cfg.model.distiller = Config.fromfile(base).distiller
        model = algorithm(cfg)
        assert model(**batch_of(model), mode='loss')['distill.loss_feature'] > 0

    def test_of_a_student(self, tmp_path):
        cfg = alone(tmp_path, RESNET)
        cfg.model.architecture = dict(MORE, _scope_='mmpretrain')
        parts = cfg.model.distiller.student_recorders
        parts.logits.source, parts.gt_labels.source = 'model', 'loss_module'
        with pytest.raises(ValueError, match=r'model\.architecture\.num_classes` = 12'):
            algorithm(cfg)

    def test_in_a_list(self, tmp_path):
        more = dict(net=dict(num_classes=12))
        cfg = config(tmp_path, ('cifar', 'timm'), 'logits', feature=None, timm=more)
        match = r'model\.teacher\.1\.net\.num_classes` = 12'
        with pytest.raises(ValueError, match=match):
            algorithm(cfg)

    def test_features_alone_may_be_those_of_other_classes(self, tmp_path):
        more = dict(net=dict(num_classes=12))
        for source, fits in (('timm.model.global_pool', True), ('timm.model', False)):
            cfg = config(tmp_path, ['timm'], None, False, source, timm=more)
            if fits:
                assert algorithm(cfg).teacher_class_names == []
                continue
            with pytest.raises(ValueError, match='num_classes'):
                algorithm(cfg)

    def test_some_of_a_teacher(self, tmp_path):
        chosen = [11, 3, *range(4, 12)][:9] + [0]
        cfg = alone(tmp_path, MORE, teacher_classes=chosen)
        whole = loaded(dict(net=MORE, ckpt=cfg.model.teacher_ckpt))
        model = algorithm(cfg)
        images = batch_of(model)['inputs']
        found = model.teacher(images, mode='tensor')
        torch.testing.assert_close(found, whole(images, mode='tensor')[:, chosen])
        assert model.teacher.model.num_classes == 10


def test_a_softmax_is_blind_to_what_a_sigmoid_of_timm_sees(tmp_path, monkeypatch):
    loss = dict(type='CrossEntropyLoss', use_sigmoid=True)
    cfg = alone(tmp_path, RESNET)
    cfg.model.architecture = dict(RESNET, loss=loss, _scope_='mmpretrain')
    parts = cfg.model.distiller
    parts.student_recorders.logits.source = 'model'
    parts.student_recorders.pop('gt_labels')
    parts.distill_losses = dict(loss_kd=dict(type='KLDivergence', tau=4.0))
    for mapping in (parts.loss_forward_mappings,):
        mapping.loss_kd = mapping.pop('loss_cakd')
        mapping.loss_kd.pop('gt_labels')
    lines = []
    monkeypatch.setattr(head_trial, 'print_log', lambda text, *_: lines.append(text))
    model = algorithm(cfg)
    data = batch_of(model)
    for sample in data['data_samples']:
        sample.set_gt_score(torch.eye(10)[sample.gt_label][0])
    model(**data, mode='loss')
    assert len(lines) == 1
    assert 'own loss of TimmClassifier does' in lines[0]
    assert 'SigmoidKDLoss' in lines[0]


VIT = dict(SMALL_TRANSFORMER, model_type='vit')
SMALL = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16)
OF_MMPRETRAIN = dict(
    type='VisionTransformer', img_size=16, patch_size=4, out_type='cls_token'
)
OF_TIMM = dict(type='TimmClassifier', model_name='test_efficientnet')
OF_TORCHVISION = dict(type='TorchvisionClassifier', model_name='squeezenet1_1')
OF_HUGGING_FACE = dict(type='HuggingFaceConfigClassifier', config=VIT)


@pytest.mark.parametrize(
    ('net', 'key'),
    [
        (OF_TIMM, 'net.num_classes'),
        # Its classifier is a convolution, and what it gives is averaged.
        (OF_TORCHVISION, 'net.num_classes'),
        (OF_HUGGING_FACE, 'net.num_classes'),
        (CIFAR, 'net.head.num_classes'),
    ],
)
@torch.no_grad()
def test_each_kind_scores_the_chosen_classes_alone(net, key):
    if net['type'].startswith('Hugging'):
        pytest.importorskip('transformers')
    torch.manual_seed(0)
    if 'head' in net:
        net = dict(net, head=dict(net['head'], num_classes=12))
    else:
        net = dict(net, num_classes=12)
    built = build(net).eval()
    assert gives_scores(built) and classes_of(built) == 12
    assert classes_key(built, 'net') == key
    images = torch.randn(2, 3, *((16, 16) if 'config' in net else (32, 32)))
    whole = built(images, mode='tensor')
    choose_classes(built, [11, 2], None, 'key')
    torch.testing.assert_close(built(images, mode='tensor'), whole[:, [11, 2]])
    assert classes_of(built) == 2


@pytest.mark.parametrize(
    'net',
    [
        dict(OF_TIMM, num_classes=0),
        dict(OF_TORCHVISION, num_classes=0),
        dict(type='HuggingFaceBackbone', config=VIT),
        dict(type='ImageClassifier', backbone=dict(OF_MMPRETRAIN, arch=SMALL)),
    ],
)
def test_each_kind_may_be_without_a_classifier(net):
    if net['type'].startswith('Hugging'):
        pytest.importorskip('transformers')
    built = build(net)
    assert not gives_scores(built)
    assert (classes_of(built), classifier_of(built)) == (None, None)
    assert 'logits' not in points_of(built) and 'pooled' in points_of(built)


class TestHuggingFace:
    """A net that names its classes in its config."""

    NAMES = tuple('abcdefghij')

    @pytest.fixture
    def config(self, tmp_path):
        """Return what makes a config of a teacher with these classes."""
        transformers = pytest.importorskip('transformers')

        def make(names=self.NAMES, **options):
            kind = transformers.ViTConfig(
                **SMALL_TRANSFORMER,
                id2label=dict(enumerate(names)),
                label2id={name: index for index, name in enumerate(names)},
            )
            kind.save_pretrained(tmp_path / 'net')
            net = dict(type='HuggingFaceClassifier', model_name=str(tmp_path / 'net'))
            return alone(tmp_path, net, **options)

        return make

    def test_other_orders_are_found_and_other_spellings_are_not(self, config):
        [theirs] = algorithm(config()).teacher_class_names
        spelled = ClassNames(('A', *self.NAMES[1:]))
        assert spelled.first_difference(theirs) is None
        turned = ClassNames(self.NAMES[::-1])
        assert turned.first_difference(theirs) == (0, 'j', 'a')
        unnamed = [f'LABEL_{index}' for index in range(10)]
        [theirs] = algorithm(config(unnamed)).teacher_class_names
        assert theirs.scored is None

    def test_classes_are_chosen_by_name(self, config):
        names = (*self.NAMES, 'k', 'l')
        chosen = ['l', *self.NAMES[:9]]
        cfg = config(names, teacher_classes=chosen)
        net = {k: v for k, v in cfg.model.teacher.items() if k != '_scope_'}
        whole = loaded(dict(net=net, ckpt=cfg.model.teacher_ckpt))
        model = algorithm(cfg)
        images = batch_of(model)['inputs']
        torch.testing.assert_close(
            model.teacher(images, mode='tensor'),
            whole(images, mode='tensor')[:, [11, *range(9)]],
        )
        assert model.teacher_class_names[0].scored == tuple(chosen)
        with pytest.raises(ValueError, match=r'Give model\.teacher\.num_labels and'):
            algorithm(config(names))
