"""What is copied for a batch; tests/test_fake_gpu/ counts how often a GPU waits."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import ClsDataPreprocessor, MultiLabelClsHead
from mmpretrain.structures import DataSample

from cakd_mm.datasets.label_batch import LabelBatch
from cakd_mm.engine.hooks import PackedCopiesHook
from cakd_mm.engine.hooks import packed_copies_hook as module
from cakd_mm.models.data_preprocessors import BatchPreprocessor

SCORES, LABELS = torch.eye(4)[[0, 1, 2, 2, 1]], [0, 1, 1, 2, 0]
NORMAL = dict(mean=[120.0], std=[60.0], to_rgb=True)


def runner_with(evaluator, *layers, stage='val', device='meta'):
    loop = SimpleNamespace(evaluator=evaluator)
    model = torch.nn.Sequential(torch.nn.Linear(1, 1, device=device), *layers)
    return SimpleNamespace(model=model, **{f'{stage}_loop': loop})


def samples():
    return [
        DataSample().set_pred_score(score).set_gt_label(label)
        for score, label in zip(SCORES, LABELS, strict=True)
    ]


@pytest.mark.parametrize('stage', ['val', 'test'])
def test_a_result_holds_its_image_alone(stage):
    """Ranks would send the scores of the whole batch for each image."""
    metric = Accuracy(topk=(1, 2))
    evaluator = Evaluator(metric)
    hook, runner = PackedCopiesHook(), runner_with(evaluator, stage=stage)
    for _ in range(2):  # each validation prepares the metrics
        getattr(hook, f'before_{stage}')(runner)
    assert evaluator.metrics[1:] == [metric]
    evaluator.process(samples())
    sizes = [x['pred_score'].untyped_storage().nbytes() for x in metric.results]
    assert sizes == [16] * 5
    scores = {'accuracy/top1': 60.0, 'accuracy/top2': 60.0}
    assert evaluator.evaluate(5) == pytest.approx(scores)


def test_samples_within_samples_and_other_values():
    inner = DataSample().set_gt_label(2)
    outer = DataSample().set_pred_score(SCORES[0])
    outer.set_field(inner, 'task')
    outer.set_field(torch.eye(2).to_sparse(), 'sparse')
    outer.set_field('a.jpg', 'img_path', field_type='metainfo')
    seen = []
    evaluator = Evaluator([])
    PackedCopiesHook().before_val(runner_with(evaluator))
    evaluator.metrics.append(SimpleNamespace(process=lambda _, data: seen.extend(data)))
    evaluator.process([outer, 'no sample'])
    found, other = seen
    assert found['task']['gt_label'].tolist() == [2]
    assert found['task']['gt_label'] is not inner.gt_label
    assert found['sparse'] is outer.sparse
    assert (found['img_path'], other) == ('a.jpg', 'no sample')


@pytest.mark.parametrize('count', [1, 2])
def test_on_the_host_only_several_ranks_copy(count, monkeypatch):
    monkeypatch.setattr(module, 'get_world_size', lambda: count)
    evaluator, head = Evaluator([]), MultiLabelClsHead()
    PackedCopiesHook().before_val(runner_with(evaluator, head, device='cpu'))
    assert len(evaluator.metrics) == count - 1
    assert ('_get_predictions' in vars(head)) == (count > 1)


def test_an_evaluator_of_another_kind_is_left_alone():
    PackedCopiesHook().before_val(runner_with(object()))


def test_a_plain_preprocessor_makes_the_same_batch():
    class Own(ClsDataPreprocessor):
        pass

    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    for kind, after in ((ClsDataPreprocessor, BatchPreprocessor), (Own, Own)):
        model = torch.nn.Module()
        model.data_preprocessor = kind(**NORMAL)
        wanted = model.data_preprocessor(dict(inputs=images))['inputs']
        PackedCopiesHook().before_run(SimpleNamespace(model=model))
        assert type(model.data_preprocessor) is after
        found = model.data_preprocessor(dict(inputs=images))['inputs']
        assert torch.equal(found, wanted)
    PackedCopiesHook().before_run(SimpleNamespace(model=torch.nn.Identity()))


@pytest.mark.parametrize('layout', [torch.channels_last, torch.contiguous_format])
def test_resident_data_keep_the_layout_in_which_mmpretrain_leaves_them(layout):
    """In another one the weights of a run would be others."""
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    batch = dict(
        inputs=pixels.contiguous(memory_format=layout),
        data_samples=LabelBatch(gt_label=torch.arange(2), sample_idx=np.arange(2)),
    )
    model = torch.nn.Module()
    model.data_preprocessor = ClsDataPreprocessor(**NORMAL)
    wanted = model.data_preprocessor(batch)['inputs']
    PackedCopiesHook().before_run(SimpleNamespace(model=model))
    found = model.data_preprocessor(batch)['inputs']
    assert torch.equal(found, wanted)
    assert found.stride() == wanted.stride()


@pytest.mark.parametrize('stage', ['val', 'test'])
def test_a_multi_label_head_is_changed_while_it_is_scored(stage):
    class Own(MultiLabelClsHead):
        def _get_predictions(self, cls_score, data_samples):
            return data_samples

    heads = MultiLabelClsHead(thr=0.6), Own()
    before = [dict(vars(head)) for head in heads]
    [wanted] = heads[0]._get_predictions(SCORES[:1], [DataSample().set_gt_label([0])])
    hook, runner = PackedCopiesHook(), runner_with(Evaluator([]), *heads, stage=stage)
    getattr(hook, f'before_{stage}')(runner)
    assert [vars(head) == old for head, old in zip(heads, before, strict=True)] == [
        False,
        True,
    ]
    [found] = heads[0]._get_predictions(SCORES[:1], [DataSample().set_gt_label([0])])
    assert found.pred_label.tolist() == wanted.pred_label.tolist() == [0]
    assert torch.equal(found.pred_score, wanted.pred_score)
    assert len(heads[0]._get_predictions(SCORES, None)) == 5
    getattr(hook, f'after_{stage}')(runner)
    assert [dict(vars(head)) for head in heads] == before
