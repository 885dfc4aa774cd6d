"""Steps of methods between features: what compiling their connectors as well gives.

resnet56 to resnet20 by the standard Runner, resident data, teacher and student as fast
as lossless or bf16 settings make them. One process per method, all variants in turn.

    python benchmarks/feature_methods.py [--methods reviewkd ofd]
"""

from common import arguments, interleave, parse, save, summarize, table
from mmengine.config import Config

import cakd_mm  # noqa: F401  (first: makes mmrazor importable)

from steps import CONFIGS, fast_student, ours, resnet, started  # isort: skip

METHODS = {
    'reviewkd': 'reviewkd/reviewkd_{}_cifar100.py',
    'ofd': 'ofd/ofd_{}_cifar100.py',
    'cakd': 'cakd/{}_cifar100.py',
}
BASELINE = 'fast teacher'
HOOK = dict(type='StudentRuntimeHook')
# Hook of the student, and whether all is in bf16.
VARIANTS = {
    BASELINE: (None, False),
    '+ fast student: lossless': (HOOK, False),
    'lossless, connectors': (dict(HOOK, connectors=True), False),
    'all bf16': (HOOK, True),
    'all bf16, connectors': (dict(HOOK, connectors=True), True),
}


def config(
    method: str, variant: str, depths: tuple[int, int], batch_size: int
) -> Config:
    """Return a variant's config."""
    hook, amp = VARIANTS[variant]
    cfg = ours(*map(resnet, depths), batch_size, teacher_runtime=dict())
    leaf = Config.fromfile(CONFIGS / METHODS[method].format('r56_r20'))
    cfg.model.distiller = leaf.model.distiller
    return fast_student(cfg, hook, amp)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS))
    parser.add_argument('--batch-size', type=int, default=64)
    args = parse(parser)
    names, depths = list(VARIANTS), (56, 20)
    if args.quick:
        args.methods, args.batch_size = ['cakd'], 2
        names, depths = names[:2], (8, 8)
    results = {}
    for method in args.methods:
        steps = {
            name: started(config(method, name, depths, args.batch_size))[1].step
            for name in names
        }
        rows = summarize(interleave(steps, args.rounds, 0.5), BASELINE)
        print(f'\n{method}, batch {args.batch_size}\n\n{table(rows, BASELINE)}')
        results[method] = rows
    save(args, 'feature_methods', dict(batch=args.batch_size, methods=results))


if __name__ == '__main__':
    main()
