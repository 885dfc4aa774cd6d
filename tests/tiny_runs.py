"""Work dirs of tiny distillation runs: trained ones, and made-up logs."""

import json
import uuid
from pathlib import Path

from mmengine.runner import Runner
from tiny import CONFIGS, digits_config, save_teacher

METRIC = 'accuracy/top1'
DEMO = CONFIGS / 'cakd/demo_digits.py'


def feature_config(folder: Path, lines: str = '', pair: str = 'r20_r8_digits') -> Path:
    """Write a config with a logit and a feature loss; ``lines`` may change it."""
    parts = (
        'default_runtime.py',
        'datasets/digits.py',
        'schedules/digits.py',
        f'pairs/{pair}.py',
        'methods/cakd_logit_feature.py',
    )
    bases = [str(CONFIGS / '_base_' / part) for part in parts]
    file = folder / 'feature.py'
    text = f'_base_ = {bases}\nmodel = dict(distiller=_base_.distiller)\n{lines}'
    file.write_text(text)
    return file


def train(folder: Path) -> Path:
    """Train two epochs of three steps with a scoring network; return the work dir."""
    cfg = digits_config(
        feature_config(folder),
        model__teacher_ckpt=str(save_teacher(folder / 'teacher.pth')),
        val_dataloader__dataset__indices=70,
        default_hooks__logger__interval=1,
        launcher='none',
        work_dir=str(folder / 'run'),
        experiment_name=uuid.uuid4().hex,
    )
    Runner.from_cfg(cfg).train()
    return folder / 'run'


def write_log(
    work_dir: Path,
    lines: list[dict],
    name: str = '20260101_000000',
    config: Path = DEMO,
    end: str = '',
) -> None:
    """Write what a start of a run leaves."""
    folder = work_dir / name / 'vis_data'
    folder.mkdir(parents=True)
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'scalars.json').write_text(text + end)
    (folder / 'config.py').write_text(f'_base_ = {str(config)!r}\n')


def steps(values, first: int = 1, per_epoch: int = 2) -> list[dict]:
    """Return training lines from step ``first`` on."""
    return [
        dict(loss=value, epoch=-(-step // per_epoch), iter=step, step=step)
        for step, value in enumerate(values, first)
    ]


def log_terms(loss: str = 'x', **terms: tuple[float, float]) -> list[dict]:
    """Return two epochs of lines with the terms of a loss."""
    first, second = steps([1.0, 1.0], per_epoch=1)
    for name, (a, b) in terms.items():
        first[f'{loss}/{name}'], second[f'{loss}/{name}'] = a, b
    return [first, second]
