"""The folder of results, known again when the command is given again."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..utils.errors import describe, first_of
from ..utils.whole_file import write_whole
from .options import Options
from .part import Part

RECORD = 'distill.json'
LISTS = ('train.txt', 'val.txt')


@dataclass
class ResultFolder:
    """A folder with configs, trainings and what is known of them.

    Args:
        path (Path): The folder, absolute.
        parts (dict): Of each training that was begun, its ``settings`` and, once it is
            finished, its ``top1`` in percent (None if it was not scored).
    """

    path: Path
    parts: dict[str, dict]
    options: dict

    @classmethod
    def open(cls, path: Path, options: Options) -> 'ResultFolder | None':
        """Return a folder that was begun before; None if there is none.

        Raises:
            ValueError: it holds something else, or was begun with other options.
        """
        file = path / RECORD
        if not file.is_file():
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                problem = f'It is there, and has no {RECORD} of an earlier start.'
                remedy = 'Give the name of a folder that is new or empty.'
                raise ValueError(describe('--out', str(path), problem, remedy))
            return None
        try:
            record = json.loads(file.read_text(encoding='utf-8'))
            before, made = dict(record['options']), record['path']
            parts = {name: dict(part) for name, part in record['parts'].items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            problem = f'It cannot be read ({error!r}).'
            raise ValueError(
                describe('--out', str(file), problem, 'Give another folder.')
            ) from error
        if made != str(path):
            problem = f'It was made as {made}, which its configs name.'
            remedy = 'Move it back, or give another folder.'
            raise ValueError(describe('--out', str(path), problem, remedy))
        options.require_same(before, path)
        return cls(path, parts, before)

    def save(self) -> None:
        """Write down what is known."""
        self.write_record(self.path)

    def write_record(self, place: Path) -> None:
        """Write down what is known, in a folder that will have this one's path."""
        record = dict(options=self.options, path=str(self.path), parts=self.parts)
        text = json.dumps(record, indent=2) + '\n'
        write_whole(place / RECORD, text.encode())

    def _lines(self, name: str) -> list[str]:
        return (self.path / name).read_text(encoding='utf-8').split('\n')[:-1]

    def scored_images(self) -> int:
        """Return how many images validation has."""
        return len(self._lines(LISTS[1]))

    def largest_class(self) -> float:
        """Return the percentage of the images for validation that one class has."""
        labels = [line.rsplit(' ', 1)[1] for line in self._lines(LISTS[1])]
        return 100 * max(Counter(labels).values()) / len(labels)

    def require_images(self) -> None:
        """Refuse to go on where an image of the lists is gone.

        Raises:
            FileNotFoundError: naming the first ones.
        """
        root = Path(self.options['data'])
        lines = [line for name in LISTS for line in self._lines(name)]
        names = [line.rsplit(' ', 1)[0] for line in lines]
        missing = [name for name in names if not (root / name).is_file()]
        if missing:
            problem = f'{len(missing)} of its images are gone: {first_of(missing)}.'
            remedy = 'Put them back, or give another --out to begin anew.'
            raise FileNotFoundError(describe('DATA', str(root), problem, remedy))

    def require_settings(self, part: Part) -> None:
        """Refuse to go on with a training whose config, or teacher, has changed.

        Raises:
            ValueError: naming its folder.
        """
        before = self.parts.get(part.name, {}).get('settings')
        if before in (None, part.settings) or not part.work_dir.is_dir():
            return
        problem = f'{part.name} was begun there with other settings than now (its '
        problem += 'config, its teacher, or what is given to training).'
        remedy = 'Undo the change, move that folder away to train it anew, or give '
        remedy += 'another --out.'
        raise ValueError(describe('--out', str(part.work_dir), problem, remedy))
