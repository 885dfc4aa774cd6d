"""What a person asks of ``tools/distill.py``."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from ..engine.launch.config import require_utf8
from ..utils.errors import describe
from ..utils.net_names import as_absolute


@dataclass(frozen=True)
class Options:
    """What is to be distilled; a folder of results has been made by one of these.

    Args:
        data (Path): A folder with one folder of images for each class, or with parts
            for training and validation that have these.
        teacher (str): Name or config of a net, see :func:`named_net`.
        student (str): Likewise.
        teacher_ckpt (str, optional): Weights of the teacher, or such as its training
            begins with. Defaults to None, those that came with the net (``hf:FOLDER``).
        student_ckpt (str, optional): Weights that the student begins with. Defaults to
            None, likewise.
        method (str): A base in ``configs/_base_/methods``; ``'cakd'`` is the one
            between logits. Defaults to ``'cakd'``.
        epochs (int, optional): Of each training. Defaults to None, see
            :class:`Settings`, as do the next two.
        size (int, optional): Of the images in training, in pixels.
        batch_size (int, optional): Images of each process in a step.
        val_share (float): What is put aside for validation where the folder has no part
            for that. Defaults to 0.2.
        seed (int): Of the split and of the trainings. Defaults to 0.
    """

    data: Path
    teacher: str
    student: str
    teacher_ckpt: str | None = None
    student_ckpt: str | None = None
    method: str = 'cakd'
    epochs: int | None = None
    size: int | None = None
    batch_size: int | None = None
    val_share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that nothing can be done with.

        Raises:
            ValueError: naming the option, its value and what it may be.
        """
        for name, least in (('epochs', 1), ('size', 8), ('batch_size', 2), ('seed', 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                problem = 'It is too small.'
                raise ValueError(
                    describe(option(name), value, problem, f'Write {least} or more.')
                )
        if not 0 < self.val_share < 1:
            problem = 'It is the share of the images that only validation gets.'
            raise ValueError(
                describe(
                    option('val_share'), self.val_share, problem, 'Write 0.2, say.'
                )
            )
        require_utf8(self.data, 'DATA')

    def resolved(self) -> 'Options':
        """Return the same options with paths that do not depend on the folder."""

        def absolute(file: str | None) -> str | None:
            if file is None or '://' in file:
                return file
            return str(Path(file).expanduser().resolve())

        return replace(
            self,
            data=self.data.resolve(),
            teacher=as_absolute(self.teacher),
            student=as_absolute(self.student),
            teacher_ckpt=absolute(self.teacher_ckpt),
            student_ckpt=absolute(self.student_ckpt),
        )

    def as_record(self) -> dict[str, str | int | float | None]:
        """Return what a file says of them."""
        return asdict(self.resolved()) | dict(data=str(self.data.resolve()))

    def require_same(self, record: dict, out: Path) -> None:
        """Refuse to go on with other options than a folder was begun with.

        Args:
            record (dict): Those it was begun with.
            out (Path): The folder, for the error.

        Raises:
            ValueError: naming the first option that differs.
        """
        now = self.as_record()
        for name in (field.name for field in fields(self)):
            if now[name] != record.get(name):
                before = record.get(name)
                problem = f'{out} was begun with {before!r}.'
                remedy = f'Write {option(name)} {before}'
                if before is None:
                    remedy = f'Leave {option(name)} out'
                remedy += ' to go on there, or another --out to begin anew.'
                raise ValueError(describe(option(name), now[name], problem, remedy))


def option(name: str) -> str:
    """Return how an option is typed."""
    return 'DATA' if name == 'data' else f'--{name.replace("_", "-")}'
