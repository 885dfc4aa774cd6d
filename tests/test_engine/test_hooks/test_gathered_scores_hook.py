"""Ranks that share no disk score together."""

import os
from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmpretrain.evaluation import Accuracy
from ranks import two_ranks

from cakd_mm.engine.hooks import GatheredScoresHook

# Of five images, whose labels are these, the ranks have every other one; the last one
# is there twice.
PREDICTED, LABELS = [0, 1, 2, 2, 1, 0], [0, 1, 1, 2, 0, 0]


@pytest.mark.parametrize('stage', ['val', 'test'])
def test_ranks_in_folders_of_their_own_score_together(tmp_path, stage):
    def score(rank):
        folder = tmp_path / f'disk{rank}'
        folder.mkdir()
        os.chdir(folder)
        evaluator = Evaluator(Accuracy(topk=(1,)))
        runner = SimpleNamespace(
            **{f'{stage}_loop': SimpleNamespace(evaluator=evaluator)}
        )
        getattr(GatheredScoresHook(), f'before_{stage}')(runner)
        for predicted, label in zip(PREDICTED[rank::2], LABELS[rank::2], strict=True):
            scores = torch.eye(3)[predicted]
            sample = dict(pred_score=scores, gt_label=torch.tensor([label]))
            evaluator.process([sample])
        return evaluator.evaluate(5), os.listdir(folder)

    for scores, files in two_ranks(score, tmp_path):
        assert scores == {'accuracy/top1': 60.0}
        assert files == []


def test_a_folder_that_was_chosen_is_used(tmp_path):
    metric = Accuracy()
    metric.collect_dir = str(tmp_path)  # which mmengine's BaseMetric takes
    loop = SimpleNamespace(evaluator=SimpleNamespace(metrics=[metric, object()]))
    GatheredScoresHook().before_val(SimpleNamespace(val_loop=loop))
    assert metric.collect_device == 'cpu'
    # An evaluator of another kind need not have metrics.
    loop.evaluator = object()
    GatheredScoresHook().before_val(SimpleNamespace(val_loop=loop))
