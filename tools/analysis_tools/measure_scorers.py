"""Which scorer and share give the published r on a trained teacher?

Runs the teacher of a config once over its training images, then every scorer at
every share over the penultimate features: r (Eq. 10 of arXiv 2410.14741, the
activation in the strong cluster over that in the weak one) and how many of the
teacher's own predictions its classifier repeats when it sees one cluster alone.
The scoring network is trained on the features first, for ``--epochs``.
"""

import argparse
import json
from pathlib import Path

import cakd_mm  # noqa: F401  (before the stack, whose imports it keeps quiet)

# isort: split
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain import get_model
from torch import Tensor

from cakd_mm.datasets.seeded_dataset import seed_everything
from cakd_mm.models.layout import strongest
from cakd_mm.models.losses import CAKDFeatureLoss
from cakd_mm.models.losses.cakd_feature_loss import kept
from cakd_mm.models.statistics import RunningMean
from cakd_mm.models.taps import classifier_of
from cakd_mm.utils.errors import describe
from cakd_mm.utils.tool_process import start_tool

SCORERS = {
    'activation': dict(type='ActivationScorer'),
    'classifier': dict(type='ClassifierScorer'),
    'classifier, absolute': dict(type='ClassifierScorer', absolute=True),
    'network': dict(type='ScoringNetwork'),
    'network, no budget': dict(type='ScoringNetwork', penalty=0.0),
    'network, feature at rms 1': dict(type='ScoringNetwork', feature_rms=1.0),
    'random': dict(type='RandomScorer'),
}
PUBLISHED = {'CIFAR-100': (3.13, 3.45), 'Tiny-ImageNet': (2.24, 2.51)}


@torch.no_grad()
def features(config: str, checkpoint: str) -> tuple[Tensor, Tensor, torch.nn.Module]:
    """Return inputs (N, C) of the classifier, the labels (N,), and the classifier."""
    cfg = Config.fromfile(config)
    teacher = get_model(cfg, pretrained=checkpoint).eval()
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    found, labels = [], []
    path = classifier_of(teacher)
    if path is None:
        problem, remedy = 'No single layer scores its classes.', 'Name another net.'
        raise ValueError(describe('config', config, problem, remedy))
    layer = teacher.get_submodule(path)
    layer.register_forward_pre_hook(lambda layer, inputs: found.append(inputs[0]))
    for batch in loader:
        data = teacher.data_preprocessor(batch, False)
        teacher(data['inputs'], mode='tensor')
        labels += [sample.gt_label for sample in data['data_samples']]
    return torch.cat(found), torch.cat(labels), layer


def measure(scorer: dict, share: float, x: Tensor, y: Tensor, head, args) -> dict:
    """Return r, and the shares of predictions kept, of one scorer and share."""
    torch.manual_seed(args.seed)
    scorer = dict(scorer)
    network = scorer['type'] == 'ScoringNetwork'
    if network:
        classes = head.weight.shape[0]
        scorer.update(channels=x.shape[1], num_classes=classes, share=share)
    loss = CAKDFeatureLoss(strong_share=share, scorer=scorer)
    if network:
        fit(loss, x, y, args)
    loss.eval()
    sums, keeps = RunningMean((2,), momentum=0), []
    with torch.no_grad():
        for xs, ys in zip(x.split(256), y.split(256), strict=True):
            mask = strongest(loss.scorer(xs, ys, head.weight), loss.count(x.shape[1]))
            sums.update(torch.stack(((xs * mask).sum(), (xs * ~mask).sum())))
            keeps.append(kept(xs, mask, head.weight, head.bias))
    found = {k: float(torch.stack([kk[k] for kk in keeps]).mean()) for k in keeps[0]}
    found['r'] = float(sums.value[0] / sums.value[1])
    if network:
        found['gate_spread'] = float(loss.scorer.terms['gate_spread'])
    return found


def fit(loss: CAKDFeatureLoss, x: Tensor, y: Tensor, args) -> None:
    """Train the scoring network by its own loss."""
    optimizer = torch.optim.SGD(
        loss.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4
    )
    loss.train()
    for _ in range(args.epochs):
        for index in torch.randperm(len(x)).split(128):
            loss.scorer(x[index], y[index])
            optimizer.zero_grad()
            loss.auxiliary.backward()
            optimizer.step()


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a vanilla config, the teacher')
    parser.add_argument('checkpoint', help="the teacher's checkpoint")
    parser.add_argument('--shares', type=float, nargs='+', default=[0.3, 0.4, 0.5])
    parser.add_argument('--epochs', type=int, default=20, help='of the network')
    parser.add_argument('--lr', type=float, default=0.05, help='of the network')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, help='json file to write')
    return parser.parse_args()


def main() -> None:
    """Measure and print a table."""
    args = parse_args()
    seed_everything(args.seed)  # Crops and flips are drawn from it.
    x, y, classifier = features(args.config, args.checkpoint)
    if x.min() < 0:
        raise ValueError(
            f'The feature goes down to {float(x.min()):.3g}: r compares activations, '
            'so use a net whose penultimate feature comes after a ReLU.'
        )
    print('published r: ' + ', '.join(f'{k} {v}' for k, v in PUBLISHED.items()))
    print('| scorer | share | r | kept by S % | by W % | by random % | gate spread |')
    print('|' + ' --- |' * 7)
    rows = []
    for name, scorer in SCORERS.items():
        for share in args.shares:
            row = measure(scorer, share, x, y, classifier, args)
            rows.append(dict(scorer=name, share=share, **row))
            cells = [
                f'{100 * row[f"kept_{k}"]:.1f}' for k in ('strong', 'weak', 'random')
            ]
            spread = f'{row["gate_spread"]:.2f}' if 'gate_spread' in row else ''
            cells = [name, str(share), f'{row["r"]:.2f}', *cells, spread]
            print(f'| {" | ".join(cells)} |')
    if args.out:
        args.out.write_text(json.dumps(rows, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    start_tool()
    main()
