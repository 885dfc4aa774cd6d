"""How far nets are from float64 with and without TF32, as they are and fast.

cuDNN computes convolutions of float32 in TF32 unless ``allow_tf32`` is off. The nets
are those of ``tests/known_nets.py``, with statistics and weights of normalisation that
are not the identity; their weights are untrained and the images noise. A deviation is
the largest one of the logits, relative to the largest logit.

    python benchmarks/tf32.py [--nets resnet8x4]
"""

import copy

import torch
from common import arguments, device, parse, save
from known_nets import NETS
from teacher import runners

# They take images of 224 pixels.
LARGE = ('resnet18', 'resnet50', 'mobilenetv2')
FAST = 'fast'


def deviations(name: str, batch_size: int, compile: bool) -> list[dict]:
    """Return a row for each setting of TF32 of a net as it is, and fast."""
    size = 224 if name in LARGE else 32
    rows = []
    for allowed in (False, True):
        net = NETS[name]().eval().to(device())
        torch.manual_seed(0)
        inputs = torch.randn(batch_size, 3, size, size, device=device())
        with torch.no_grad():
            exact = copy.deepcopy(net).double()(inputs.double(), mode='tensor')
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):
            for variant, run in runners(net, {FAST: dict(compile=compile)}).items():
                row = dict(net=name, variant=variant, tf32=allowed)
                rows.append(row)
                try:
                    # The first call compiles and the second one records CUDA graphs.
                    found = [run(inputs).double() for _ in range(3)][-1]
                except ValueError as error:
                    row['refused'] = str(error)
                    continue
                gap = (found - exact).abs().max() / exact.abs().max()
                row['deviation'] = gap.item()
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument('--nets', nargs='+', choices=NETS, default=list(NETS))
    parser.add_argument('--batch-size', type=int, default=32)
    args = parse(parser)
    if args.quick:
        args.nets, args.batch_size = args.nets[:1], 2
    rows: list[dict] = []
    print('| net | variant | TF32 | deviation |\n| --- | --- | --- | --- |', flush=True)
    for name in args.nets:
        for row in deviations(name, args.batch_size, compile=not args.quick):
            rows.append(row)
            said = row.get('refused') or f'{row["deviation"]:.1e}'
            allowed = 'on' if row['tf32'] else 'off'
            print(f'| {name} | {row["variant"]} | {allowed} | {said} |', flush=True)
        # After each net, because whoever measures may run out of time.
        save(args, 'tf32', dict(batch_size=args.batch_size, rows=rows))


if __name__ == '__main__':
    main()
