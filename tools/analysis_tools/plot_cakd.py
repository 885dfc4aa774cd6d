"""Draw what went on inside a distillation run.

``terms.png``: the terms of every loss over the epochs. Of a run with a
CAKDFeatureLoss over channels also ``clusters.png``: how often each channel is
strong, by class; and ``images.png``: what the strongest channels look at.
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure
from mmengine.config import Config

from cakd_mm.visualization import observe
from cakd_mm.visualization.clusters import draw_clusters
from cakd_mm.visualization.history import read_history
from cakd_mm.visualization.images import draw_images
from cakd_mm.visualization.terms import draw_terms, title_of

MOST_IMAGES = 1000


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dir', type=Path, help='work dir of a distillation run')
    parser.add_argument('--out', type=Path, help='default: the work dir')
    parser.add_argument(
        '--images',
        type=int,
        nargs='+',
        metavar='IDX',
        help='images of the validation split; default: six of different classes',
    )
    parser.add_argument(
        '--checkpoint', type=Path, help='default: the newest of the work dir'
    )
    parser.add_argument('--loss', help='the feature loss; default: the first')
    parser.add_argument(
        '--channels', type=int, default=5, help='channels per image (default: 5)'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    history, cfg = read_history(args.work_dir)
    losses = observe.distill_losses(cfg, args.work_dir)
    name = observe.choose_loss(losses, args.loss)
    args.out = args.out or args.work_dir
    save(draw_terms(history, cfg, losses), args.out / 'terms.png')
    if not history.terms():
        print(
            'The log has no terms (bcd, wcd, ...): train with '
            "default_hooks.terms=dict(type='DistillTermsHook')."
        )
    if name is None:
        print(
            'The run has no CAKDFeatureLoss over channels (granularity pooled or '
            'channel), so there are no clusters.png and images.png.'
        )
        return
    draw_channels(cfg, name, title_of(name, losses[name]), args)


def draw_channels(cfg: Config, name: str, title: str, args: argparse.Namespace) -> None:
    """Build the model and draw what a feature loss makes of validation images."""
    checkpoint = args.checkpoint or observe.latest_checkpoint(args.work_dir)
    dataset = observe.build_dataset(cfg)
    labels = observe.labels_of(dataset)
    observe.check_images(args.images or [], len(dataset))
    model = observe.build_model(cfg, checkpoint)
    many = observe.spread(labels, MOST_IMAGES)
    seen = observe.look(model, name, dataset, many)
    channels = seen.scores.shape[1]
    observe.check_channels(args.channels, channels)
    names = observe.class_names(dataset, seen.logits.shape[1])
    title = f'{title}; {checkpoint.name}'
    save(draw_clusters(seen, names, title), args.out / 'clusters.png')
    few = args.images or observe.spread(labels, 6)
    seen = observe.look(model, name, dataset, few, pictures=True)
    if seen.maps is None:
        print(
            f'images.png is without maps: the teacher has none of the {channels} '
            f'channels of {name} (neither the tapped feature nor what goes into its '
            'neck is one).'
        )
    save(draw_images(seen, names, args.channels, title), args.out / 'images.png')


def save(figure: Figure, path: Path) -> None:
    """Write a picture and tell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f'wrote {path}')


if __name__ == '__main__':
    main()
