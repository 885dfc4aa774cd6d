"""Steps of methods between features: what is gained by compiling their connectors too.

resnet56 teaches resnet20 by the standard Runner on resident data. Teacher and student
are as fast as lossless or bf16 settings make them. One process visits all variants of a
method in turn.

    python benchmarks/feature_methods.py [--methods reviewkd ofd]
"""

from common import arguments, interleave, parse, save, summarize, table
from mmengine.config import Config
from steps import CONFIGS, fast_student, ours, resnet, started

METHODS = {
    'reviewkd': 'reviewkd/reviewkd_r56_r20_cifar100.py',
    'ofd': 'ofd/ofd_r56_r20_cifar100.py',
    'cakd': 'cakd/r56_r20_cifar100.py',
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
    cfg = ours(*map(resnet, depths), batch_size, teacher_runtime=dict())
    leaf = Config.fromfile(CONFIGS / METHODS[method])
    cfg.model.distiller = leaf.model.distiller
    return fast_student(cfg, *VARIANTS[variant])


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
