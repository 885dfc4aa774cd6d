"""How often a training step waits for a GPU, and how many kernels it launches.

One step of the standard Runner, loader and hooks included, of every method and on small
nets, after the steps that look at what they meet for the first time. Waits are those
that PyTorch's ``set_sync_debug_mode`` reports, each with its line of code. A CPU has
neither, so there the counts are null.

    python benchmarks/waits.py [--methods cakd_logit crd]
"""

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from common import arguments, device, parse, save, synchronize
from end_to_end import kernels
from methods import BATCH_SIZE, METHODS, SIZE, distiller, nets
from mmengine.config import Config
from steps import CLASSES, fast_student, ours, started

# Whether the data are resident, and whether all is in bf16.
SETTINGS = {
    'loader': (False, False),
    'resident': (True, False),
    'resident, bf16': (True, True),
}
# Hooks that watch a step, and are left out once to see what they cost.
WATCHING = ('finite', 'terms')
WARMUP = 3
SYNC = 'called a synchronizing CUDA operation'


def config(method: str, setting: str, without: str | None = None) -> Config:
    """Return the config of a method, with one of our hooks left out if it is named."""
    resident, amp = SETTINGS[setting]
    cfg = ours(*nets(method), BATCH_SIZE, resident=resident, size=SIZE)
    cfg.model.distiller = distiller(method)
    cfg.model.data_preprocessor.num_classes = CLASSES
    cfg.train_dataloader.dataset.indices = 16 * BATCH_SIZE
    if without is not None:
        cfg.default_hooks.pop(without)
    return fast_student(cfg, None, amp)


def waits(step: Callable[[], None]) -> Counter | None:
    """Return the lines at which a step waits for the GPU; None on a CPU."""
    if device() == 'cpu':
        step()
        return None
    synchronize()
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            step()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    found = [said for said in caught if SYNC in str(said.message)]
    return Counter(f'{Path(said.filename).name}:{said.lineno}' for said in found)


def row_of(method: str, setting: str, without: str | None = None) -> dict:
    """Count the waits and kernels of a step."""
    _, loop = started(config(method, setting, without))
    for _ in range(WARMUP):
        loop.step()
    places = waits(loop.step)
    return dict(
        method=method,
        setting=setting if without is None else f'{setting}, without {without}',
        waits=None if places is None else sum(places.values()),
        where=places,
        kernels=None if places is None else kernels(loop.step),
    )


def main() -> None:
    parser = arguments(__doc__)
    names = list(METHODS)
    parser.add_argument('--methods', nargs='+', choices=names, default=names)
    args = parse(parser)
    cases: list[tuple] = [
        (method, setting) for method in args.methods for setting in SETTINGS
    ]
    cases += [('cakd_logit', 'resident', hook) for hook in WATCHING]
    rows: list[dict] = []
    print('| method | setting | waits | kernels | where |\n' + '| --- ' * 5 + '|')
    for case in cases[-1:] if args.quick else cases:
        row = row_of(*case)
        rows.append(row)
        cells = [row[key] for key in ('method', 'setting', 'waits', 'kernels')]
        cells.append(', '.join(row['where'] or ()))
        print(f'| {" | ".join(map(str, cells))} |', flush=True)
        # After each step, because whoever measures may run out of time.
        save(args, 'waits', dict(batch_size=BATCH_SIZE, rows=rows))


if __name__ == '__main__':
    main()
