"""What ``tools/deployment/export_student.py`` does, from two files to others."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..utils.errors import describe, start_of
from ..utils.tool_process import is_of_user
from ..utils.whole_file import write_whole
from .formats import BATCH, FORMATS, INPUT, Format, Source
from .images import Images, Normalised, images_of
from .latency import medians
from .merging import merged
from .parity import TOLERANCE, Scores, largest_difference
from .scoring import Reading, Scoring, reading_of
from .student import Student, read_student

# Files have to agree with the student for one image, and for a number of images that is
# not the one of the example.
BATCHES = 1, 5
EXAMPLE = 2


@dataclass(frozen=True)
class Wish:
    """What a person asks of an export.

    Args:
        config (str): ``student.py``.
        checkpoint (str): ``student.pth``.
        out (Path, optional): The files, without their ending. Defaults to None, beside
            the checkpoint and named after it.
        formats (list[str]): Of :data:`FORMATS`.
        size (list[int], optional): Height and width of the images, or one number for
            both. Defaults to None, the size of the config's test images.
        batch_size (int, optional): The number of images that a file takes. Defaults to
            None, any number.
        normalize (bool): Whether files take RGB images of 0 to 255. Defaults to False:
            they take what the net takes.
        probabilities (bool): Whether files give probabilities. Defaults to False: they
            give logits.
        as_trained (bool): Whether branches stay that are for training only. Defaults to
            False.
        opset (int, optional): The version of ONNX's operators. Defaults to None, that
            of the exporter.
    """

    config: str
    checkpoint: str
    out: Path | None
    formats: Sequence[str]
    size: list[int] | None = None
    batch_size: int | None = None
    normalize: bool = False
    probabilities: bool = False
    as_trained: bool = False
    opset: int | None = None

    @property
    def output(self) -> str:
        """What the scores are called."""
        return 'probabilities' if self.probabilities else 'logits'

    def path(self, suffix: str) -> Path:
        """Return the path of a file with that ending."""
        out = self.out or Path(self.checkpoint).expanduser().with_suffix('')
        # A dot in a name begins no ending, unless it is one of ours.
        ours = {'.json', *(x.suffix for x in FORMATS.values())}
        stem = out.stem if out.suffix in ours else out.name
        return out.with_name(stem + suffix)


def export(wish: Wish, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Write a student in other formats, and compare them with it.

    No file is written unless all of them give the student's scores.

    Args:
        wish (Wish): What is asked for.
        say (Callable): Gets lines for the user. Defaults to ``print``.

    Returns:
        dict: What the files say of themselves and, as ``measured``, size in bytes,
            milliseconds and difference of each; it is in the ``.json`` beside them too.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError: what is asked for cannot be
            done; naming the option or the file.
    """
    formats = {name: FORMATS[name] for name in wish.formats}
    for one in formats.values():
        one.require()
    student = read_student(wish.config, wish.checkpoint)
    images = images_of(student.cfg, student.net, wish.size)
    reading = reading_of(student, images)
    if wish.probabilities and reading.activation is None:
        problem = f'{student.kind} predicts by neither softmax nor sigmoid.'
        remedy = 'Leave it out: the files then give logits.'
        raise ValueError(describe('--probabilities', True, problem, remedy))
    activation = reading.activation if wish.probabilities else None
    before = Normalised(images) if wish.normalize else None
    net, is_merged = (student.net, False) if wish.as_trained else merged(student.net)
    scoring = Scoring(net, reading, before, activation)
    trained = _trained(student, images, reading, wish)
    batches = [_example(x, images, wish) for x in _batches(wish)]
    with torch.no_grad():
        classes = trained(batches[0]).shape[1]
    source = Source(
        scoring,
        _example(wish.batch_size or EXAMPLE, images, wish),
        wish.batch_size is not None,
        wish.output,
        wish.opset,
    )
    metadata = _metadata(student, images, reading, wish, classes)
    contents: dict[str, bytes] = {}
    calls: dict[str, Scores] = {'student': trained}
    measured: dict[str, dict] = {'student': dict(bytes=student.bytes, difference=0.0)}
    for name, one in formats.items():
        try:
            contents[name] = one.content(source, metadata)
            calls[name] = one.loaded(contents[name])
            difference = largest_difference(calls[name], trained, batches)
        except Exception as error:  # torch's and onnxruntime's are of many kinds
            if is_of_user(error):
                raise
            problem = f'torch cannot export {student.kind} ({start_of(error, 300)}).'
            remedy = _other_ways(name, wish)
            raise ValueError(describe('--format', name, problem, remedy)) from error
        if not difference <= TOLERANCE:
            raise ValueError(_differs(name, student, difference, is_merged, wish))
        measured[name] = dict(bytes=len(contents[name]), difference=difference)
    times, rounds = _times(calls, batches[0])
    for name, milliseconds in times.items():
        measured[name]['milliseconds'] = milliseconds
    threads = torch.get_num_threads()
    result = dict(metadata, measured=measured, threads=threads, rounds=rounds)
    wish.path('').parent.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_whole(wish.path(formats[name].suffix), content)
    text = json.dumps(result, indent=2, ensure_ascii=False)
    write_whole(wish.path('.json'), f'{text}\n'.encode())
    _tell(wish, result, formats, is_merged, say)
    return result


def _batches(wish: Wish) -> tuple[int, ...]:
    return BATCHES if wish.batch_size is None else (wish.batch_size,)


def _example(count: int, images: Images, wish: Wish) -> Tensor:
    """Return random images as the files take them."""
    generator = torch.Generator().manual_seed(count)
    shape = count, *images.shape
    if wish.normalize:
        return torch.randint(256, shape, generator=generator).float()
    return torch.randn(shape, generator=generator)


def _trained(student: Student, images: Images, reading: Reading, wish: Wish) -> Scores:
    """Return the student with its own preprocessor, branches and all."""
    activation = reading.activation if wish.probabilities else None
    scoring = Scoring(student.net, reading, None, activation)
    if not wish.normalize:
        return scoring
    preprocess: Any = student.net.data_preprocessor
    # It gets images as their set has them: those that it turns to RGB are BGR.
    turns = getattr(preprocess, 'to_rgb', False) or images.order == 'BGR'

    def scores(batch: Tensor) -> Tensor:
        given = batch.flip(1) if turns else batch
        return scoring(preprocess(dict(inputs=given), False)['inputs'])

    return scores


def _metadata(
    student: Student, images: Images, reading: Reading, wish: Wish, classes: int
) -> dict[str, Any]:
    """Return what one has to know who has only the file."""
    names = student.classes
    left = None if wish.normalize or not images.is_known else images
    unknown = None if images.is_known or wish.normalize else 'see pipeline'
    return dict(
        input=INPUT,
        shape=[wish.batch_size or BATCH, *images.shape],
        order='RGB' if wish.normalize else images.order,
        mean=left.mean if left else unknown or [0.0],
        std=left.std if left else unknown or [1.0],
        output=wish.output,
        activation=reading.activation,
        classes=list(names) if names and len(names) == classes else None,
        pipeline=images.pipeline,
    )


def _differs(
    name: str, student: Student, difference: float, is_merged: bool, wish: Wish
) -> str:
    problem = f'What torch made of {student.kind} does not give its scores: they '
    problem += f'differ by {difference:.1e} of the largest, and by {TOLERANCE:.0e} at '
    problem += f'most they may, for {" and ".join(map(str, _batches(wish)))} images. '
    problem += 'Nothing is written.'
    remedy = _other_ways(name, wish)
    if is_merged:
        remedy = f'Give --as-trained, which does not merge branches. {remedy}'
    return describe('--format', name, problem, remedy)


def _other_ways(name: str, wish: Wish) -> str:
    other = ' '.join(x for x in FORMATS if x != name)
    remedy = f'Give --format {other}.'
    if wish.batch_size is None:
        remedy = f'Give --batch-size 1, for one image at a time, or {remedy[5:]}'
    return remedy


def _times(calls: dict[str, Scores], images: Tensor) -> tuple[dict[str, float], int]:
    with torch.no_grad():
        return medians({name: partial(call, images) for name, call in calls.items()})


def _tell(
    wish: Wish,
    result: dict[str, Any],
    formats: dict[str, Format],
    is_merged: bool,
    say: Callable[[str], None],
) -> None:
    """Say what was written, what was measured and how a file is used."""
    say(f'{"":24} {"MB":>8} {"ms":>9}   difference')
    for name, row in result['measured'].items():
        one = formats.get(name)
        file = wish.path(one.suffix).name if one else Path(wish.checkpoint).name
        line = f'{file:24} {row["bytes"] / 1e6:8.2f} {row["milliseconds"]:9.2f}'
        say(f'{line}   {row["difference"]:.1e}' if one else line)
    count, *shape = result['shape']
    pixels = f'{shape[1]} x {shape[2]}'
    say(
        f'ms: a batch of {_batches(wish)[0]}, {pixels} pixels, on the CPU, threads: '
        f'{result["threads"]}; median of {result["rounds"]} calls.'
    )
    say('difference: from the scores of the student, as a share of the largest one.')
    if is_merged:
        say(
            'Branches that are for training only are merged (--as-trained leaves them).'
        )
    say(f'Written to {wish.path("").parent.resolve()}')
    say(f'{wish.path(".json").name} says this too, and what images the files take.')
    images = f'({"N" if count == BATCH else count}, {", ".join(map(str, shape))})'
    how = 'with values of 0 to 255'
    if not wish.normalize and isinstance(result['mean'], str):
        how = 'normalised as the pipeline in the .json does'
    elif not wish.normalize:
        how = f'(values of 0 to 255 - {_short(result["mean"])}) / '
        how += f'{_short(result["std"])}'
    say(f'\nIn Python; images: float32 {images}, {result["order"]}, {how}')
    for one in formats.values():
        path = str(wish.path(one.suffix).resolve())
        for line in one.snippet(path, wish.output):
            say(f'  {line}')
    if result['classes']:
        beside = str(wish.path('.json').resolve())
        say('  import json')
        say(f"  classes = json.load(open({beside!r}, 'rb'))['classes']")
        say(f'  print(classes[{wish.output}[0].argmax()])')


def _short(values: list[float]) -> list[float]:
    return [float(f'{x:.6g}') for x in values]
