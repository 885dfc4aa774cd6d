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
        chosen (tuple[str], optional): The names of its classes that are wanted, in the
            order of the images'. Defaults to None (all, in that order).
        preprocessor (dict): ``mean``, ``std`` and ``to_rgb`` of its training, as far as
            the checkpoint says it. Defaults to {}.
        renamed (dict[str, Tensor], optional): The weights as the net names them, where
            mmengine would not find them in the file. Defaults to None.
    """

    file: str
    is_whole: bool
    classes: int
    chosen: Names | None
    preprocessor: Mapping[str, Any]
    renamed: Mapping[str, Tensor] | None = None

    def shown(self) -> str:
        """Return what the file is, for the person who gave it."""
        if self.is_whole:
            return f'{self.file} is the net itself, because it knows these classes.'
        return f'training begins with {self.file}, which knows other classes.'

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
    weights = model_weights(content)
    names = names_in_checkpoint(content)
    if file == named.weights:
        names = names or named.classes
    meta = content.get('meta')
    trained = values_in(meta.get('cfg')) if isinstance(meta, Mapping) else {}
    seen = preprocessing_of_files(trained)
    fitting = _Fit(weights, build, len(classes))
    own = names if names is not None and len(names) == fitting.scored else None
    in_file = unwrapped(content.get('state_dict', content))
    renamed = None if _reads(file, in_file, weights) else weights

    def found(is_whole: bool, count: int, chosen: Names | None) -> GivenWeights:
        return GivenWeights(file, is_whole, count, chosen, seen, renamed)

    if own is None and fitting.loads(len(classes)):
        return found(True, len(classes), None)
    if own is not None and set(classes) <= set(own) and fitting.loads(len(own)):
        return found(True, len(own), None if own == classes else classes)
    if any(name.startswith(STUDENT_PREFIX) for name in in_file):
        problem = 'It is a checkpoint of a distillation whose student is another net, '
        problem += 'or knows other classes.'
        remedy = 'Give the student.pth that lies beside it.'
        raise ValueError(describe(key, file, problem, remedy))
    if fitting.lacking:
        # Training would begin with random weights in their place, and nobody would
        # know.
        problem = f'{len(fitting.lacking)} of the weights of {named.name} are not in '
        problem += f'it, or of another shape: {fitting.lacking[0]}, say.'
        raise ValueError(describe(key, file, problem, remedy))
    return found(False, len(classes), None)


class _Fit:
    """How weights fit a net that is built for a number of classes.

    Attributes:
        scored (int | None): How many classes the weights score; None if they have no
            classifier of this net.
        lacking (list[str]): Weights of the net, its classifier apart, that are missing
            or have another shape.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], build: Callable[[int], BaseModel], n: int
    ) -> None:
        """Compare them, and find the classifier if its number of classes differs."""
        self.weights, self.build = weights, build
        self.scored: int | None = n
        self.lacking: list[str] = []
        net = build(n).state_dict()
        misfits = [
            name
            for name, value in net.items()
            if name not in weights or weights[name].shape != value.shape
        ]
        if not misfits:
            return
        # What has another shape for another number of classes is the classifier's.
        other = build(n + 1).state_dict()
        counts = {
            name: [a != b for a, b in zip(net[name].shape, x.shape, strict=True)]
            for name, x in other.items()
            if x.shape != net[name].shape
        }
        self.lacking = [name for name in misfits if name not in counts]
        self.scored = next(
            (
                weights[name].shape[places.index(True)]
                for name, places in counts.items()
                if name in weights and weights[name].dim() == len(places)
            ),
            None,
        )

    def loads(self, classes: int) -> bool:
        """Return whether the net for so many classes takes exactly these weights."""
        if self.scored != classes:
            return False
        try:
            load_strictly(self.build(classes), self.weights, '', '', '')
        except ValueError:
            return False
        return True


def _reads(
    file: str, in_file: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> bool:
    """Return whether mmengine finds these weights in a file, under these names."""
    is_torch = not file.endswith(('.safetensors', '.json'))
    return is_torch and all(in_file.get(name) is x for name, x in weights.items())
