"""Whether a run repeats itself: one seed twice, and once stopped and resumed.

The digits, with a loss between logits and one between features. Compared are all values
of ``student.pth``, without and with ``randomness.deterministic=True``.

    python benchmarks/repeated.py
"""

import tempfile
import uuid
from pathlib import Path

import torch
from common import arguments, parse, save
from tiny import digits_config, save_teacher
from torch import Tensor

from cakd_mm.engine.launch import adapt_to_device, build_runner

CONFIG = 'cakd/ablations/digits/digits_logit-double_network.py'


def trained(
    work_dir: Path, epochs: int, images: int, teacher: Path, **options
) -> dict[str, Tensor]:
    """Train the digits in a work dir and return the student's weights."""
    cfg = digits_config(CONFIG, images, epochs, model__teacher_ckpt=str(teacher))
    cfg.merge_from_dict(options)
    cfg.launcher, cfg.log_level, cfg.work_dir = 'none', 'ERROR', str(work_dir)
    cfg.experiment_name = uuid.uuid4().hex
    adapt_to_device(cfg)
    build_runner(cfg).train()
    return torch.load(work_dir / 'student.pth', weights_only=False)['state_dict']


def difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict:
    """Return how many values differ, and the largest difference."""
    gaps = [
        (value.double() - second[name].double()).abs().flatten()
        for name, value in first.items()
    ]
    values = torch.cat(gaps)
    return dict(
        values=values.numel(),
        differing=values.count_nonzero().item(),
        largest=values.max().item(),
    )


def compare(deterministic: bool, epochs: int, images: int) -> dict[str, dict]:
    """Return the differences of two whole runs, and of a whole and a resumed one."""
    randomness = dict(seed=0, deterministic=deterministic)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        common = dict(images=images, teacher=save_teacher(place / 'teacher.pth'))
        common['randomness'] = randomness
        first, again = (trained(place / name, epochs, **common) for name in 'ab')
        trained(place / 'c', epochs // 2, **common)
        resumed = trained(place / 'c', epochs, resume=True, **common)
    return dict(again=difference(first, again), resumed=difference(first, resumed))


def main() -> None:
    args = parse(arguments(__doc__))
    epochs, images = (2, 32) if args.quick else (4, 512)
    found: dict[str, dict] = {}
    print('| deterministic | run | values | differing | largest difference |')
    print('| --- ' * 5 + '|', flush=True)
    try:
        for deterministic in (False, True):
            rows = compare(deterministic, epochs, images)
            for name, row in rows.items():
                cells = deterministic, name, *row.values()
                print(f'| {" | ".join(map(str, cells))} |', flush=True)
            found[f'deterministic={deterministic}'] = rows
            save(args, 'repeated', dict(epochs=epochs, runs=found))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False


if __name__ == '__main__':
    main()
