"""Nodes that share no disk score together."""

import os
from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmpretrain.evaluation import Accuracy
from mmpretrain.structures import DataSample
from ranks import two_ranks

from cakd_mm.engine.hooks import NodeScoresHook


def sample(rank: int) -> dict:
    """Return what a rank's net says of its image: the first rank's is wrong."""
    scores = torch.eye(2)[rank]
    return DataSample().set_pred_score(scores).set_gt_label(1).to_dict()


@pytest.mark.parametrize('stage', ['val', 'test'])
def test_the_score_is_of_all_ranks_wherever_they_are(tmp_path, stage):
    (tmp_path / 'shared').mkdir()
    given = tmp_path / 'given'

    def work(rank: int) -> list:
        found = []
        (tmp_path / f'node{rank}').mkdir()
        for folder, common in (
            ('shared', None),
            (f'node{rank}', None),
            (f'node{rank}', str(given)),
        ):
            os.chdir(tmp_path / folder)
            metric = Accuracy()
            metric.collect_dir = common
            evaluator = Evaluator(metric)
            runner = SimpleNamespace(**{f'{stage}_evaluator': evaluator})
            getattr(NodeScoresHook(), f'before_{stage}')(runner)
            evaluator.process([sample(rank)])
            found.append((metric.collect_device, evaluator.evaluate(2)))
        return found

    ranks = two_ranks(work, tmp_path)
    score = {'accuracy/top1': 50.0}
    assert ranks == [[('cpu', score), ('gpu', score), ('cpu', score)]] * 2
    for folder in ('shared', 'node0'):
        assert [*(tmp_path / folder / '.dist_test').iterdir()] == []


def test_a_single_process_looks_for_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metric = Accuracy()
    runner = SimpleNamespace(val_evaluator=Evaluator(metric))
    NodeScoresHook().before_val(runner)
    assert metric.collect_device == 'cpu'
    assert [*tmp_path.iterdir()] == []
