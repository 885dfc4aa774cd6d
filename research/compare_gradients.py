"""How differently do feature losses pull at the same student?

Takes a run's model from each checkpoint and puts the losses of other configs in the
place of its feature loss; student, connector and statistics stay. On the same training
batches, in float32 and at the balance of the config, each loss's gradient at the
student's backbone is compared with the run's own (cosine), and with that of all other
losses together (length, cosine). Losses whose gradients point the same way can hardly
be told apart by the accuracy of a few seeds. If a config with a RandomScorer is given
twice, its two rows show how much two draws of its clusters differ.
"""

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import Tensor, nn

import cakd_mm  # noqa: F401  (before any config is read)
from cakd_mm.datasets.seeded_dataset import seed_everything
from cakd_mm.engine import launch
from cakd_mm.utils.errors import describe, nearest
from cakd_mm.visualization import observe

from .provenance import commit, machine, versions
from .reproduce import count
from .runs import write_json


def adopt(loss: nn.Module, own: nn.Module) -> nn.Module:
    """Give a loss what it shares with the run's own, such as running statistics.

    Raises:
        ValueError: it has weights that the run has not trained.
    """
    found = own.state_dict()
    missing = loss.load_state_dict(
        {k: v for k, v in found.items() if k in loss.state_dict()}, strict=False
    ).missing_keys
    untrained = {name for name, _ in loss.named_parameters()} & {*missing}
    if untrained:
        raise ValueError(
            describe(
                '--others',
                type(loss).__name__,
                f'The run has no weights for {sorted(untrained)}.',
                'Make the run with the trained scorer CONFIG, the others its --others.',
            )
        )
    return loss.train()


def gradients(model: Any, name: str, batch: dict, seed: int) -> tuple[Tensor, Tensor]:
    """Return the backbone's gradient of one loss, and of all others together.

    The model is a ``FrozenTeacherDistill``, both gradients are flat. The loss of a
    scorer is left out, because it has no gradient at the backbone.
    """
    torch.manual_seed(seed)  # A random scorer draws its clusters from it.
    # The balancer starts anew, so that it balances this loss and not the run's own.
    if model.distiller.balancer is not None:
        model.distiller.balancer.means.batches.zero_()
    losses = model(**batch, mode='loss')
    one = losses.pop(f'distill.{name}')
    rest = sum(
        loss
        for key, loss in losses.items()
        if 'loss' in key and not key.endswith('.scorer_loss')
    )
    weights = [*model.student.backbone.parameters()]
    parts = torch.autograd.grad(one, weights, retain_graph=True)
    others = torch.autograd.grad(rest, weights)
    flat = [torch.cat([part.flatten() for part in own]) for own in (parts, others)]
    return flat[0], flat[1]


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine of two flat gradients."""
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def compare(
    model: Any, name: str, losses: list[nn.Module], batches: list[dict]
) -> list[dict]:
    """Return, of every loss in the place of ``name``, the means over the batches.

    The first is the one that the others are compared with.
    """
    found: list[dict[str, list[float]]] = [
        {'to_own': [], 'to_rest': [], 'length': []} for _ in losses
    ]
    for number, batch in enumerate(batches):
        first = None
        for index, (loss, own) in enumerate(zip(losses, found, strict=True)):
            model.distiller.distill_losses[name] = loss
            seed = number * len(losses) + index
            gradient, rest = gradients(model, name, batch, seed)
            first = gradient if first is None else first
            own['to_own'].append(cosine(gradient, first))
            own['to_rest'].append(cosine(gradient, rest))
            own['length'].append(float(gradient.norm() / rest.norm()))
    return [{key: mean(values) for key, values in own.items()} for own in found]


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='of the run')
    parser.add_argument('checkpoints', type=Path, nargs='+', help='epoch_*.pth of it')
    parser.add_argument('--others', type=Path, nargs='+', required=True)
    parser.add_argument('--loss', default='loss_feature', help='its name in all')
    parser.add_argument('--batches', type=count, default=20)
    parser.add_argument(
        '--cfg-options', nargs='+', action=launch.OptionAction, default={}
    )
    parser.add_argument('--out', type=Path, help='json file to write')
    return parser.parse_args()


def main() -> None:
    """Measure and print a table."""
    args = parse_args()
    cfgs = [Config.fromfile(path) for path in (args.config, *args.others)]
    for path, cfg in zip((args.config, *args.others), cfgs, strict=True):
        cfg.merge_from_dict(args.cfg_options)
        known = cfg.model.get('distiller', {}).get('distill_losses', {})
        if args.loss not in known:
            problem = f'{path} has no distillation loss of that name.'
            remedy = f'Write {nearest(args.loss, known)}, or another config.'
            raise ValueError(describe('--loss', args.loss, problem, remedy))
    launch.check_data(cfgs[0], ('train',))
    seed_everything(0)  # Crops and flips are drawn from it.
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        loader = Runner.build_dataloader(cfgs[0].train_dataloader, seed=0)
    raw = [batch for batch, _ in zip(loader, range(args.batches), strict=False)]
    algorithms: list[Any] = [observe.build_algorithm(cfg) for cfg in cfgs[1:]]
    others = [
        algorithm.distiller.distill_losses[args.loss].to(get_device())
        for algorithm in algorithms
    ]
    rows = []
    print('| checkpoint | loss | length, of all others | cosine to them | to its own |')
    print('|' + ' --- |' * 5)
    for checkpoint in args.checkpoints:
        model: Any = observe.build_model(cfgs[0], checkpoint).train()
        own = model.distiller.distill_losses[args.loss]
        losses = [own, *(adopt(other, own) for other in others)]
        batches = [model.data_preprocessor(batch, True) for batch in raw]
        found = compare(model, args.loss, losses, batches)
        for path, row in zip((args.config, *args.others), found, strict=True):
            rows.append(dict(checkpoint=checkpoint.name, loss=path.stem, **row))
            cells = [checkpoint.name, path.stem]
            cells += [f'{row[key]:.2f}' for key in ('length', 'to_rest', 'to_own')]
            print(f'| {" | ".join(cells)} |')
    if args.out:
        where = dict(commit=commit(), versions=versions(), machine=machine())
        write_json(args.out, dict(**where, batches=len(raw), rows=rows))
