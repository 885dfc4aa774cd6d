"""The configs that a report compares: their runs, name, colour and reference."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

from ...utils.extract import student_model
from ..paired_statistics import Curve, Difference, paired
from ..sweep import (
    Group,
    Settings,
    SweptRun,
    group_runs,
    label_of,
    part_of,
    settings_of,
)
from .lines import COLOURS

# What a net computes; the rest says how it is trained, or what it reports. A net of
# others has arguments of its own, all of which count but these.
PARTS = ('backbone', 'neck', 'head')
OF_TRAINING = ('loss', 'topk', 'cal_acc', 'init_cfg', 'train_cfg')
BESIDE_NET = ('data_preprocessor', '_scope_')


@dataclass(frozen=True)
class Entry:
    """The runs of one config.

    Attributes:
        group: The runs, ordered by seed.
        label: What the report calls them, of no other entry.
        colour: The colour of their lines, ``'#rrggbb'``.
    """

    group: Group
    label: str
    colour: str

    @property
    def distils(self) -> bool:
        """Whether the runs have a teacher."""
        return 'architecture' in self.group.runs[0].cfg.model

    @property
    def scored(self) -> list[SweptRun]:
        """The finished runs, or else those that have a score."""
        return self.group.finished or [run for run in self.group.runs if run.scores]

    @property
    def top1(self) -> dict[int, float]:
        """The last top-1 in percent of the finished runs, by seed.

        Of several runs with one seed it is the mean. Those without a seed are left out.
        """
        found: dict[int, list[float]] = {}
        for run in self.group.finished:
            if run.seed is not None:
                found.setdefault(run.seed, []).append(run.top1)
        return {seed: mean(scores) for seed, scores in found.items()}

    @property
    def curves(self) -> list[Curve]:
        """The scores of each finished run, by epoch."""
        return [sorted(run.scores.items()) for run in self.group.finished]

    @property
    def net(self) -> Settings:
        """What the trained net is, of which a teacher is no part."""
        cfg = self.group.runs[0].cfg
        try:
            model = student_model(cfg) if self.distils else cfg.model
        except (FileNotFoundError, ValueError):
            # The file that `cfg_path` names has gone, so that no net is like this one.
            model = dict(backbone=cfg.model.architecture)
        names = PARTS if 'backbone' in model else set(model) - set(BESIDE_NET)
        parts = settings_of({part: model.get(part) for part in names})
        return {x: v for x, v in parts.items() if not set(x) & set(OF_TRAINING)}

    @property
    def scored_on(self) -> Settings:
        """The images that the runs are validated on."""
        return part_of(self.group.settings, ('val_dataloader', 'dataset'))

    def over(self, other: 'Entry') -> Difference | None:
        """Return what this config gains over another, on the seeds of both."""
        return paired(self.top1, other.top1)


def entries_of(runs: Sequence[SweptRun]) -> list[Entry]:
    """Put runs together whose configs agree in all but the seed."""
    groups = group_runs(runs)
    labels: list[str] = []
    for group in groups:
        label = label_of(group, groups)
        # Settings that read alike in the short form are told apart by a number.
        same = sum(x == label or x.startswith(f'{label} (') for x in labels)
        labels.append(f'{label} ({same + 1})' if same else label)
    return [
        Entry(group, label, COLOURS[place % len(COLOURS)])
        for place, (group, label) in enumerate(zip(groups, labels, strict=True))
    ]


def alone(entry: Entry, entries: Iterable[Entry]) -> Entry | None:
    """Return the runs of the same student, on the same images, without a teacher.

    Of several it is the one with the most of its seeds, and of those the one whose
    config is most like its own. None if there is none, or if it has no teacher itself.
    """
    if not entry.distils:
        return None
    same = [
        other
        for other in entries
        if not other.distils
        and other.scored_on == entry.scored_on
        and other.net == entry.net
    ]

    def fitness(other: Entry) -> tuple[int, int]:
        theirs, ours = other.group.settings.items(), entry.group.settings.items()
        return len(other.top1.keys() & entry.top1.keys()), -len(theirs ^ ours)

    return max(same, key=fitness, default=None)


def references(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Return what each config is compared with, by its label.

    It is the same student alone. If no student was trained alone, it is the first
    config that was scored on the same images.
    """
    found = {one.label: other for one in entries if (other := alone(one, entries))}
    if found:
        return found
    firsts = {
        one.label: next(x for x in entries if x.scored_on == one.scored_on)
        for one in entries
    }
    return {label: first for label, first in firsts.items() if first.label != label}
