"""What differs between nets that classify, detect and segment."""

from abc import ABC, abstractmethod
from operator import attrgetter
from typing import Any, ClassVar

import torch
from mmengine.config import Config
from torch import Tensor, nn

# Of images on which a net that scores positions is tried. The coarsest level of a
# detector then has one position.
SIZE = 128


class Task(ABC):
    """A kind of nets, found by the base class that its project gives them.

    All else of the package goes through a task where kinds of nets differ. Nothing of a
    project is imported before one of its nets exists, because mmdet and mmseg are
    optional.

    Attributes:
        name (str): What its nets do, in one word.
        scope (str): The registry of its nets.
        base (str): The full name of their base class.
        preprocessor (str): The type of a ``data_preprocessor`` without one.
        visualizer (str): The type of the visualizer of a plain config.
        is_dense (bool): Whether its nets score positions. Defaults to False.
        annotations (tuple[str]): What a sample calls what an image is labelled with.
        example (str): How the config of a whole net begins, for errors.
        resizes_for_teacher (bool): Whether ``data_preprocessor.size`` of a teacher is
            ours, and says to what its images are resized. Defaults to True.
        heads (tuple[str]): The paths at which a net may have what tells its number of
            classes; the first that it has counts.
    """

    name: ClassVar[str]
    scope: ClassVar[str]
    base: ClassVar[str]
    preprocessor: ClassVar[str]
    visualizer: ClassVar[str]
    is_dense: ClassVar[bool] = False
    annotations: ClassVar[tuple[str, ...]]
    example: ClassVar[str]
    resizes_for_teacher: ClassVar[bool] = True
    heads: ClassVar[tuple[str, ...]]

    def is_of(self, kind: type) -> bool:
        """Tell whether a class of nets is of this task, by the names of its bases."""
        return self.base in {f'{x.__module__}.{x.__qualname__}' for x in kind.__mro__}

    def count_place(self, net: nn.Module) -> str | None:
        """Return the path of the part of a net that tells its number of classes.

        Returns:
            str | None: None if no part does.
        """
        found = (x for x in self.heads if hasattr(part_at(net, x), 'num_classes'))
        return next(found, None)

    def declared_classes(self, net: nn.Module) -> int | None:
        """Return how many classes a net's head says it scores; None if it does not."""
        return getattr(self.head_of(net), 'num_classes', None)

    def head_of(self, net: nn.Module) -> Any:
        """Return the part of a net that tells its number of classes; None without."""
        place = self.count_place(net)
        return None if place is None else part_at(net, place)

    def has_label(self, sample: Any) -> bool:
        """Tell whether a sample is annotated."""
        return any(name in sample for name in self.annotations)

    @abstractmethod
    def labels(self, sample: Any, net: nn.Module) -> Tensor | None:
        """Return the class indices of a sample, integers (K,), that the net learns.

        Returns:
            Tensor | None: None if there are none, whatever the reason.
        """

    def image_shape(self, cfg: Config) -> tuple[int, int, int]:
        """Return (channels, height, width) of images that the net of a config takes.

        Defaults to a small size, or that which the backbone asks for, because nets that
        score positions take images of any size.
        """
        backbone = cfg.model.get('backbone') or {}
        size = backbone.get('img_size', SIZE)  # which a transformer may say
        height, width = (size, size) if isinstance(size, int) else size
        return backbone.get('in_channels', 3), height, width

    def put_preprocessor(self, plain: dict, preprocessor: dict) -> None:
        """Put the config of a preprocessor where the project looks for it.

        Args:
            plain (dict): The config of a plain net, with its ``model``, to which it is
                added. Defaults to being a part of the model.
            preprocessor (dict): It gets the type that it has without one.
        """
        preprocessor.setdefault('type', self.preprocessor)
        plain['model'].data_preprocessor = preprocessor

    @abstractmethod
    def load(self, cfg: Config, checkpoint: str) -> nn.Module:
        """Return the plain net of a config with its weights, loaded by its project."""

    @abstractmethod
    def loading(self, config: str, checkpoint: str) -> str:
        """Return the Python that loads a plain net from two files."""

    def scores_by_sigmoid(self, net: nn.Module) -> bool:
        """Tell whether a net's head says that it scores each class by itself.

        Defaults to False. What a classifier does is tried out.
        """
        return False

    def score_maps(self, net: nn.Module, output: Any) -> dict[str, Tensor]:
        """Return the maps of class scores in what a net gives, (N, A * K, H, W).

        Args:
            net (nn.Module): The net.
            output: What its ``mode='tensor'`` gives.

        Returns:
            dict[str, Tensor]: By the name of each place. Defaults to none.
        """
        return {}

    def scored_classes(self, net: nn.Module, scores: Tensor) -> int:
        """Return K, how many channels of a map of scores are of one box or pixel.

        Defaults to all of them.

        Args:
            net (nn.Module): The net.
            scores (Tensor): One of its maps, (N, A * K, H, W).
        """
        return scores.shape[1]

    def why_no_score_maps(self, net: nn.Module) -> str:
        """Return a sentence on why a net has no maps of scores to compare."""
        return 'It scores whole images.'

    def samples_of(self, images: Tensor) -> list | None:
        """Return what a net is told of images besides them, (N, C, H, W).

        Defaults to None, nothing.
        """
        return None

    def outputs(self, net: nn.Module, images: Tensor) -> Any:
        """Return what a net's ``mode='tensor'`` gives of images, (N, C, H, W)."""
        return net(images, self.samples_of(images), mode='tensor')


def part_at(net: nn.Module, path: str) -> Any:
    """Return a part of a net by its path, also within a list; None if it has none."""
    try:
        return attrgetter(path)(net)
    except AttributeError:
        return None


def integer_labels(value: Any) -> Tensor | None:
    """Return labels on the host, flat; None if they are elsewhere, or are none."""
    if not isinstance(value, Tensor) or value.device.type != 'cpu':
        return None
    return None if value.is_floating_point() else value.reshape(-1).to(torch.int64)
