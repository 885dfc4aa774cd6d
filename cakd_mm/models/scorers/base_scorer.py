"""The interface between a loss and what decides which elements are strong."""

from collections.abc import Mapping
from typing import ClassVar

from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...utils.errors import describe
from ..statistics import RunningNorm
from ..term_axis import TermLabels


class BaseScorer(nn.Module):
    """Gives every channel of the teacher's feature a score; the highest are strong.

    A new scorer is a subclass in a file of its own, registered in mmrazor's
    MODELS, that implements :meth:`forward`.

    Attributes:
        elementwise (bool): Whether it can score the elements of a map as well
            (granularity ``'spatial'`` and ``'flat'``). Defaults to True.
        needs (tuple[str, ...]): Which optional arguments it needs, ``'gt_labels'``
            or ``'head_weight'``; the loss demands them. Defaults to none.
        one_class (bool): Whether an image with several labels, or with none, has to
            be refused. Defaults to False.
        by_image (bool): Whether scores depend on :attr:`images`. Defaults to False.
        images (Tensor, optional): A number of each image of the batch, int64, which
            it has on any rank: its place in the training set, or in the batch of all
            ranks. The loss sets it if ``by_image``. Defaults to None.
        meaning (str): What a score is, for the title of a plot. Defaults to ''.
        term_labels (TermLabels): Axis and legend of the terms in plots.
        terms (dict[str, Tensor]): Detached scalars of the last call, which are
            logged beside those of the loss.
        auxiliary (Tensor | None): The loss of this step that trains the scorer
            itself; the distiller adds it to the sum.
    """

    elementwise = True
    needs: tuple[str, ...] = ()
    one_class = False
    by_image = False
    meaning: ClassVar[str] = ''
    term_labels: ClassVar[TermLabels] = {}

    def __init__(self) -> None:
        super().__init__()
        self.terms: dict[str, Tensor] = {}
        self.auxiliary: Tensor | None = None
        self.images: Tensor | None = None

    @classmethod
    def wanted_widths(cls, cfg: Mapping) -> dict[str, str]:
        """Return which arguments of a config the nets, or the loss, determine.

        Args:
            cfg (Mapping): The config of the scorer as the user wrote it.

        Returns:
            dict[str, str]: As :meth:`DistillLoss.wanted_widths`; a source may also
            be the name of an argument of the loss.
        """
        return {}

    def forward(
        self,
        feature: Tensor,
        gt_labels: Tensor | None = None,
        head_weight: Tensor | None = None,
    ) -> Tensor:
        """Score the teacher's feature; the higher, the stronger.

        Args:
            feature (Tensor): The teacher's, float32 and detached: (N, C), or
                (N, C, P) where the channels have positions or tokens.
            gt_labels (Tensor, optional): Classes (N,) or rows of label scores
                (N, K).
            head_weight (Tensor, optional): The weight of the teacher's
                classifier, (K, C).

        Returns:
            Tensor: (N, C) scores.
        """
        raise NotImplementedError

    def norm_batches(self, feature: Tensor) -> list[tuple[RunningNorm, Tensor]]:
        """Return the rows with which :meth:`forward` is going to update each norm."""
        return []

    def warning(self, terms: dict[str, float]) -> str | None:
        """Return what a user should be told about the logged terms, if anything."""
        return None


def built_scorer(scorer: dict | BaseScorer, key: str = 'scorer') -> BaseScorer:
    """Return a scorer itself, or that of a config.

    ``key`` is the config key that holds it.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(scorer, dict) and scorer and 'type' not in scorer:
        problem = 'It is missing, so nobody knows what to build.'
        remedy = f"Write type='RandomScorer', say, beside {[*scorer]}."
        raise ValueError(describe(f'{key}.type', None, problem, remedy))
    is_config = isinstance(scorer, dict) and 'type' in scorer
    made = MODELS.build(scorer) if is_config else scorer
    if not isinstance(made, BaseScorer):
        problem = 'It is no scorer.'
        remedy = "Write dict(type='RandomScorer'), say, or leave it out."
        raise ValueError(describe(key, scorer, problem, remedy))
    return made


def required(scorer: nn.Module, name: str, value: Tensor | None) -> Tensor:
    """Return an argument that a scorer needs.

    Raises:
        ValueError: it is None.
    """
    if value is not None:
        return value
    recorder = "dict(recorder='head_weight', from_student=False)"
    if name == 'gt_labels':
        recorder = "dict(recorder='gt_labels', from_student=True, data_idx=1)"
    raise ValueError(
        f'{type(scorer).__name__} needs {name}: write {name}={recorder} in '
        'model.distiller.loss_forward_mappings of this loss.'
    )
