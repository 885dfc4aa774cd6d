"""A teacher of more classes, or of the same in another order, teaches the student's."""

import copy

import pytest
import torch
from tiny import algorithm, build, digits_config
from torch import nn

from cakd_mm.models.algorithms import teacher
from cakd_mm.models.algorithms.teacher_classes import ClassNames, choose_classes
from cakd_mm.utils.checkpoint import fingerprint

NAMES = tuple('abcdefghijkl')
# The student's ten classes: two of the teacher's twelve are left out.
CHOSEN = list('lkjihgfedc')
VIT = dict(type='VisionTransformer', img_size=16, patch_size=4, out_type='cls_token')
SMALL = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16)
POOL = dict(type='GlobalAveragePooling')
ARC = dict(in_channels=64, loss=dict(type='CrossEntropyLoss'))
HEADS = dict(
    linear=dict(type='LinearClsHead', in_channels=64),
    # A hidden layer as wide as there are classes.
    stacked=dict(type='StackedLinearClsHead', in_channels=64, mid_channels=[12]),
    csra=dict(type='CSRAClsHead', in_channels=64, num_heads=1, lam=0.1),
    arc_face=dict(type='ArcFaceClsHead', num_subcenters=2, **ARC),
    vit=dict(type='VisionTransformerClsHead', in_channels=16, hidden_dim=12),
    deit=dict(type='DeiTClsHead', in_channels=16),
)


def teacher_of(head):
    backbone = dict(type='CIFARResNet', depth=8)
    net = dict(type='ImageClassifier', backbone=backbone, neck=POOL)
    if head in ('vit', 'deit'):
        kind = dict(type='DistilledVisionTransformer') if head == 'deit' else {}
        net = dict(type='ImageClassifier', backbone={**VIT, 'arch': SMALL, **kind})
    if head == 'csra':
        net.pop('neck')
    return dict(net, head=dict(HEADS[head], num_classes=12))


def built(head):
    torch.manual_seed(1)
    net = build(teacher_of(head)).eval()
    for parameter in net.head.parameters():
        nn.init.normal_(parameter)
    return net


@pytest.mark.parametrize('head', HEADS)
def test_the_net_scores_the_chosen_classes_alone(head):
    net = built(head)
    whole, state = copy.deepcopy(net), torch.get_rng_state()
    found = choose_classes(net, CHOSEN, NAMES, 'model.teacher_classes')
    assert torch.equal(torch.get_rng_state(), state)
    images = torch.randn(5, 3, 16, 16)
    places = [NAMES.index(name) for name in CHOSEN]
    with torch.no_grad():
        torch.testing.assert_close(
            net(images, mode='tensor'), whole(images, mode='tensor')[:, places]
        )
    assert net.head.num_classes == 10
    assert found == ClassNames(tuple(CHOSEN), NAMES, tuple(places))
    kinds = [type(module) for module in net.modules()]
    assert kinds == [type(module) for module in whole.modules()]


def config(folder, chosen, meta, student=10):
    net = built('linear')
    path = str(folder / 'teacher.pth')
    torch.save(dict(meta=meta, state_dict=net.state_dict()), path)
    cfg = digits_config('cakd/demo_digits.py', model__teacher_ckpt=path)
    cfg.model.teacher = dict(teacher_of('linear'), _scope_='mmpretrain')
    cfg.model.teacher_classes = chosen
    cfg.model.architecture.head.num_classes = student
    return cfg


NAMED = dict(dataset_meta=dict(classes=NAMES))


@pytest.mark.parametrize('meta', [NAMED, dict(CLASSES=NAMES)])
def test_a_softmax_is_over_the_chosen_classes(tmp_path, meta):
    model = algorithm(config(tmp_path, CHOSEN, meta))
    [found] = model.teacher_class_names
    assert found.scored == tuple(CHOSEN) and found.chosen_from == NAMES
    images = torch.randn(4, 3, 16, 16)
    whole = built('linear')(images, mode='tensor').softmax(1)
    kept = whole[:, [NAMES.index(name) for name in CHOSEN]]
    found = model.teacher(images, mode='tensor').softmax(1)
    torch.testing.assert_close(found, kept / kept.sum(1, keepdim=True))


def test_indices_need_no_names(tmp_path):
    model = algorithm(config(tmp_path, [*range(2, 12)], {}))
    [found] = model.teacher_class_names
    assert found == ClassNames(places=tuple(range(2, 12)))
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(
        model.teacher(images, mode='tensor'),
        built('linear')(images, mode='tensor')[:, 2:],
    )


def test_indices_of_known_classes_have_names(tmp_path):
    short = dict(dataset_meta=dict(classes=NAMES[:3]))
    for meta, scored in ((NAMED, NAMES[2:]), (short, None)):
        model = algorithm(config(tmp_path, [*range(2, 12)], meta))
        [found] = model.teacher_class_names
        assert found.scored == scored


@pytest.mark.parametrize('meta', [NAMED, {}])
def test_the_log_says_which_classes_teach(tmp_path, monkeypatch, meta):
    lines = []
    monkeypatch.setattr(teacher, 'print_log', lambda text, *_: lines.append(text))
    algorithm(config(tmp_path, [2, 0, 1, *range(3, 10)], meta))
    wanted = 'in its order: 2 (c), 0 (a), 1 (b), 3' if meta else 'in its order: 2, 0, 1'
    assert len([line for line in lines if wanted in line]) == 1


def test_a_run_of_other_classes_is_not_resumed(tmp_path):
    state = algorithm(config(tmp_path, CHOSEN, NAMED)).state_dict()
    other = algorithm(config(tmp_path, CHOSEN[::-1], NAMED))
    match = r'`model\.teacher_classes` = \[2, 3, .*was trained with \[11, 10, '
    with pytest.raises(ValueError, match=match):
        other.load_state_dict(dict(state))
    # By name or by index, it is the same.
    same = algorithm(config(tmp_path, [*range(11, 1, -1)], NAMED))
    same.load_state_dict(dict(state))


def test_a_run_of_a_release_that_did_not_store_the_choice_goes_on(tmp_path):
    model = algorithm(config(tmp_path, CHOSEN, NAMED))
    state = model.state_dict()
    del state['teacher_choice']
    state['teacher_sha256'] = fingerprint(model.teacher.state_dict())
    model.load_state_dict(dict(state))
    other = algorithm(config(tmp_path, CHOSEN[::-1], NAMED))
    with pytest.raises(ValueError, match=r'teacher_ckpt.*SHA-256 differs'):
        other.load_state_dict(state)


def test_all_classes_in_their_order_are_no_choice(tmp_path):
    state = algorithm(config(tmp_path, None, NAMED, student=12)).state_dict()
    model = algorithm(config(tmp_path, [*range(12)], NAMED, student=12))
    model.load_state_dict(state)


def test_without_the_key_the_names_are_those_of_the_checkpoint(tmp_path):
    # A head may have more outputs than its data had classes.
    for names in (NAMES, NAMES[:3]):
        meta = dict(dataset_meta=dict(classes=names))
        model = algorithm(config(tmp_path, None, meta, student=12))
        assert model.teacher_class_names == [ClassNames(names)]


@pytest.mark.parametrize(
    ('chosen', 'meta', 'match'),
    [
        (['a', 'zz', 'c'], NAMED, r"teacher_classes\.1` = 'zz': .*no class of that"),
        ([0, 12], {}, r'teacher_classes\.1` = 12: .*scores 12 classes.*0 to 11'),
        ([0, -1], {}, r'teacher_classes\.1` = -1: .*0 to 11'),
        (['a', 'b', 'a'], NAMED, r"teacher_classes\.2` = 'a': .*there already"),
        (['a', 0], NAMED, r'teacher_classes\.1` = 0: .*there already'),
        (['a'], {}, r"teacher_classes\.0` = 'a': .*does not name.*index"),
        (['a'], dict(CLASSES=NAMES[:3]), r"\.0` = 'a': .*names 3 of its 12 classes"),
        (['a'], dict(CLASSES=('a', *NAMES[:11])), r"'a': .*several classes"),
        (CHOSEN[:9], NAMED, r'teacher_classes` = .*names 9 classes.*student scores 10'),
        ([], NAMED, r'teacher_classes` = \[\]'),
    ],
)
def test_a_wrong_class_is_named(tmp_path, chosen, meta, match):
    with pytest.raises(ValueError, match=match):
        algorithm(config(tmp_path, chosen, meta))


@pytest.mark.parametrize('wrong', [[True], ['a', None], 'abc', [1.5]])
def test_what_is_no_list_of_classes(tmp_path, wrong):
    with pytest.raises(TypeError, match=r'model\.teacher_classes'):
        algorithm(config(tmp_path, wrong, NAMED))


def test_a_head_that_cannot_be_cut_is_named():
    class Shifted(nn.Module):
        num_classes = 12

        def __init__(self, fc):
            super().__init__()
            self.fc = fc
            self.shift = nn.Parameter(torch.randn(12))

        def forward(self, feats):
            return self.fc(feats[-1]) + self.shift

    net = built('linear')
    net.head = head = Shifted(net.head.fc)
    with pytest.raises(ValueError, match='teacher_classes.*Shifted'):
        choose_classes(net, [3, 1], None, 'model.teacher_classes')
    assert net.head is head and head.fc.out_features == 12


def test_another_spelling_of_a_class_that_was_chosen_by_name():
    ours = ClassNames(('cat', 'dog'))
    chosen = ClassNames(('Katze', 'Hund'), ('Katze', 'Hund', 'Maus'))
    assert ours.first_difference(chosen) is None
    turned = ClassNames(('dog', 'cat'), ('cat', 'dog', 'cow'))
    assert ours.first_difference(turned) == (0, 'cat', 'dog')
    assert turned.first_difference(ours) == (0, 'dog', 'cat')
    # Each side may be the one that was chosen.
    assert chosen.first_difference(ours) is None
    half = ClassNames(('Katze', 'dog'), ('Katze', 'dog', 'cat'))
    assert ours.first_difference(half) == (0, 'cat', 'Katze')
    assert ours.first_difference(ClassNames(('cat',))) == (1, 'dog', None)
    assert ours.first_difference(ClassNames()) is None


def test_a_net_without_scores_is_named():
    net = built('linear')
    net.head = None
    match = 'teacher_classes.*ImageClassifier gives no scores'
    with pytest.raises(ValueError, match=match):
        choose_classes(net, [0], None, 'model.teacher_classes')
