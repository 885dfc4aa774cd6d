"""What a person's checkpoint is to a net: the net itself, or its beginning."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor

from ..utils.checkpoint import (
    STUDENT_PREFIX,
    load_strictly,
    model_weights,
    read_checkpoint,
    unwrapped,
)
from ..utils.class_names import Names, names_in_checkpoint
from ..utils.config_text import values_in
from ..utils.errors import describe
from ..utils.net_names import NamedNet
from ..utils.published_weights import as_wanted
from ..utils.training_images import preprocessing_of_files


@dataclass(frozen=True)
class GivenWeights:
    """What a checkpoint is to a net.

    Args:
        file (str): The checkpoint.
        is_whole (bool): Whether it scores these classes, in an order of its own
            perhaps.
        classes (int): How many classes the net has to have, to be given the weights or
            to be trained.
        chosen (tuple, optional): Those of its classes that are wanted, in the order of
            the images', by name or, where the file has no names, by their numbers.
            Defaults to None (all, in that order).
        preprocessor (dict): ``mean``, ``std`` and ``to_rgb`` of its training, as far as
            the checkpoint says it. Defaults to {}.
        has_classifier (bool): Whether it scores any classes. Defaults to True.
        renamed (dict[str, Tensor], optional): The weights as the net names them, where
            mmengine would not find them in the file. Defaults to None.
    """

    file: str
    is_whole: bool
    classes: int
    chosen: tuple[str | int, ...] | None
    preprocessor: Mapping[str, Any]
    has_classifier: bool = True
    renamed: Mapping[str, Tensor] | None = None

    def shown(self) -> str:
        """Return what the file is, for the person who gave it."""
        if self.is_whole and not self.classes:
            return f'{self.file} has no classifier; its features teach as they are.'
        if self.is_whole:
            return f'{self.file} knows these classes.'
        other = 'knows other classes' if self.has_classifier else 'has no classifier'
        return f'{self.file} {other}; training begins with it and a new classifier.'

    def as_beginning(self, classes: int) -> 'GivenWeights':
        """Return what the file is to a net that only scores so many classes."""
        if self.chosen is None:
            return self
        return replace(self, is_whole=False, classes=classes, chosen=None)

    def save_renamed(self, path: Path) -> None:
        """Write the weights as a checkpoint of mmpretrain."""
        meta = dict(source=self.file)
        torch.save(dict(meta=meta, state_dict=self.renamed), path)


def read_given_weights(
    file: str,
    named: NamedNet,
    classes: Names,
    build: Callable[[int], BaseModel],
    key: str,
    remedy: str,
) -> GivenWeights:
    """Read a checkpoint, and see whether it knows the classes.

    It does if its classes have the names of these, in any order and with others beside
    them, or if it names none and scores as many. Otherwise training begins with its
    weights, all but those of the classifier.

    Args:
        file (str): The checkpoint, also a URL.
        named (NamedNet): The net.
        classes (tuple[str, ...]): Names of the images' classes.
        build (Callable): Builds the net for a number of classes.
        key (str): The option that names the file, for errors.
        remedy (str): What to give if it does not fit, a sentence.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint, or not one of this net.
    """
    content = read_checkpoint(file, key, remedy)
    in_checkpoint = names_in_checkpoint(content)
    beside = named.classes if file == named.weights else None
    names = in_checkpoint or beside
    meta = content.get('meta')
    trained = values_in(meta.get('cfg')) if isinstance(meta, Mapping) else {}
    seen = preprocessing_of_files(trained)
    fit = _Fit(model_weights(content), build, len(classes))
    own = names if names is not None and len(names) == fit.scored else None
    # mmengine looks for weights here alone.
    in_file = unwrapped(content.get('state_dict', content))
    is_found = all(
        name in in_file and torch.equal(in_file[name], value)
        for name, value in fit.weights.items()
    )

    given = GivenWeights(
        file=file,
        is_whole=False,
        classes=len(classes),
        chosen=None,
        preprocessor=seen,
        has_classifier=fit.scored is not None,
        renamed=None if is_found else fit.weights,
    )
    if own is None and fit.loads(len(classes)):
        return replace(given, is_whole=True)
    if own is not None and set(classes) <= set(own) and fit.loads(len(own)):
        numbers = tuple(own.index(name) for name in classes)
        chosen = None if own == classes else classes if in_checkpoint else numbers
        return replace(given, is_whole=True, classes=len(own), chosen=chosen)
    if any(name.startswith(STUDENT_PREFIX) for name in in_file):
        problem = 'It is a checkpoint of a distillation whose student is another net, '
        problem += 'or knows other classes.'
        remedy = 'Give the student.pth that lies beside it.'
        raise ValueError(describe(key, file, problem, remedy))
    if fit.lacking:
        # Training would begin with random weights in their place, and nobody would
        # know.
        problem = f'{len(fit.lacking)} of the weights of {named.name} are not in it, '
        problem += f'or of another shape: {fit.lacking[0]}, say.'
        raise ValueError(describe(key, file, problem, remedy))
    return given


class _Fit:
    """How the weights of a file fit a net that is built for a number of classes.

    Attributes:
        weights (dict[str, Tensor]): Those of them that fit, as the net names them.
        scored (int | None): How many classes they score; None if they have no
            classifier of this net.
        lacking (list[str]): Weights of the net, its classifier apart, that are missing
            or have another shape.
    """

    def __init__(
        self, in_file: Mapping[str, Tensor], build: Callable[[int], BaseModel], n: int
    ) -> None:
        """Compare them, and find the classifier if its number of classes differs."""
        self.in_file, self.build = in_file, build
        self.scored: int | None = n
        self.lacking: list[str] = []
        built = build(n)
        net = built.state_dict()
        named, _ = as_wanted(built, in_file)
        shapes = {name: value.shape for name, value in named.items()}
        misfits = [name for name, x in net.items() if shapes.get(name) != x.shape]
        self.weights = {k: named[k] for k in net if k not in misfits}
        if not misfits:
            return
        # What has another shape for another number of classes is the classifier's.
        other = build(n + 1).state_dict()
        places = {
            name: [a != b for a, b in zip(x.shape, net[name].shape, strict=True)]
            for name, x in other.items()
            if x.shape != net[name].shape
        }
        # Other layers beside it (`head.layers`) are of the classifier too.
        owners = {name.rpartition('.')[0].rpartition('.')[0] for name in places}
        starts = tuple(f'{owner}.' for owner in owners - {''})
        self.lacking = [
            name
            for name in misfits
            if name not in places and not name.startswith(starts)
        ]
        counts = (
            shapes[name][there.index(True)]
            for name, there in places.items()
            if len(shapes.get(name, ())) == len(there)
        )
        self.scored = next(counts, None)

    def loads(self, classes: int) -> bool:
        """Return whether the net for so many classes takes exactly these weights."""
        if self.scored != classes:
            return False
        try:
            load_strictly(self.build(classes), self.in_file, '', '', '')
        except ValueError:
            return False
        return True
