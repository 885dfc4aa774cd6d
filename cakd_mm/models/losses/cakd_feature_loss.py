"""CAKD between features, with clusters of the teacher's channels."""

import math
from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from ...utils.compiling import compiled
from ...utils.errors import describe
from ...utils.transfer import send
from ...utils.type_names import class_name
from ..checks import check_number
from ..exp2 import exp2
from ..layout import cluster_sums, strongest, to_row_mask, to_rows, to_scored
from ..scorers.base_scorer import BaseScorer, built_scorer, required
from ..scorers.image_numbers import tell_images
from ..statistics import RunningMean, RunningNorm, update_means
from ..term_axis import CLUSTER_TERMS, TermAxis
from .feature_loss import FeatureLoss
from .functional import cluster_terms, weighted_kl
from .functional.cakd import two_clusters
from .gradient_shares import SHARE_TERMS, GradientShares

ADAPTIVE = 'adaptive'
DEFAULT_SCORER = dict(type='ActivationScorer')


@MODELS.register_module()
class CAKDFeatureLoss(FeatureLoss):
    r"""CAKD between a feature of the student and one of the teacher.

    "CAKD: A Correlation-Aware Knowledge Distillation Framework Based on
    Decoupling Kullback-Leibler Divergence", arXiv 2410.14741, Eq. 7 and 10. The
    channels that a scorer ranks highest on the teacher are a sample's strong
    cluster, all others the weak one, and with the softmax over the channels

    .. math:: L = \tau^2 \, mean(\alpha BCD + \beta SCD + \gamma WCD)

    ``terms`` holds ``bcd``, ``scd`` and ``wcd``, with ``tau**2`` and no weight,
    ``strong_mass``, the teacher's probability of S, and ``r``, the running mean of its
    activation in S over that in W, which has a meaning only for features >= 0. If
    ``head_weight`` is mapped, ``kept_strong``, ``kept_weak`` and ``kept_random`` are
    the shares of the teacher's own predictions that its classifier repeats when it
    gets S alone, W alone, or as many random channels as S has.

    Args:
        tau (float): Temperature that divides the features. Defaults to 4.0.
        alpha (float): Weight of BCD, between the clusters. Defaults to 1.0.
        beta (float): Weight of SCD, within the strong one. Defaults to 8.0.
        gamma (float | str): Weight of WCD, within the weak one; or
            ``'adaptive'``: ``beta / r`` (Eq. 10). Defaults to 2.0.
        strong_share (float): Share of the elements in the strong cluster, in
            (0, 1). Defaults to 0.5.
        scorer (dict | BaseScorer): What ranks the channels. Defaults to
            ``dict(type='ActivationScorer')``.
        granularity (str): See :class:`FeatureLoss`. Channels are chosen once
            per sample, elements of ``'spatial'`` and ``'flat'`` in each row. A map of
            1 x 1, as the last level of a pyramid may be, costs 0 in ``'spatial'``.
        round_ratio (bool): Whether the adaptive weight rounds r to the nearest power
            of two, as in the paper's tables. Defaults to False.
        compile (bool): Whether torch.compile compiles the divergences and their
            gradient, which changes nothing but their rounding. Defaults to False.
        gradient_shares (dict, optional): Shares of ``bcd``, ``scd`` and ``wcd`` in the
            gradient by the student's rows, see :class:`GradientShares`. Defaults to
            None: ``alpha``, ``beta`` and ``gamma`` are the weights.
        **kwargs: ``standardize``, ``channels``, ``momentum`` and
            ``loss_weight`` as in :class:`FeatureLoss`.

    Raises:
        ValueError: a setting is out of range, or the scorer cannot score such
            elements.
    """

    term_labels = {
        **CLUSTER_TERMS,
        **SHARE_TERMS,
        'kept_strong': (
            TermAxis.SHARE,
            'kept_strong: predictions kept by the strong channels alone',
        ),
        'kept_weak': (TermAxis.SHARE, 'kept_weak: ... by the weak channels alone'),
        'kept_random': (TermAxis.SHARE, 'kept_random: ... by as many random channels'),
        'r': (TermAxis.FACTOR, "r: teacher's activation, strong / weak cluster"),
        'gamma': (TermAxis.FACTOR, 'gamma: weight of WCD, beta / r'),
    }

    def __init__(
        self,
        tau: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        gamma: float | str = 2.0,
        strong_share: float = 0.5,
        scorer: dict | BaseScorer | None = None,
        granularity: str = 'pooled',
        round_ratio: bool = False,
        compile: bool = False,
        gradient_shares: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(granularity=granularity, **kwargs)
        check_number(self, 'tau', tau, positive=True)
        check_number(self, 'alpha', alpha)
        check_number(self, 'beta', beta)
        if not isinstance(gamma, str):
            check_number(self, 'gamma', gamma)
        elif gamma != ADAPTIVE:
            raise ValueError(
                f'gamma must be a number or {ADAPTIVE!r}, got {gamma!r}: set gamma in '
                'the config of CAKDFeatureLoss.'
            )
        check_number(self, 'strong_share', strong_share, positive=True)
        if strong_share >= 1:
            raise ValueError(
                f'strong_share must be in (0, 1), got {strong_share!r}: the weak '
                'cluster would be empty. Write strong_share=0.5, say.'
            )
        self.scorer = built_scorer(DEFAULT_SCORER if scorer is None else scorer)
        if granularity in ('spatial', 'flat') and not self.scorer.elementwise:
            raise ValueError(
                f'{type(self.scorer).__name__} scores channels, but '
                f'granularity={granularity!r} needs a score per element: use '
                "ActivationScorer or RandomScorer, or granularity='pooled'."
            )
        self.shares: GradientShares | None = None
        if gradient_shares is not None:
            if gamma == ADAPTIVE:
                problem = 'gamma="adaptive" sets the weight of wcd, too.'
                raise ValueError(
                    describe(
                        'gradient_shares',
                        gradient_shares,
                        problem,
                        'Leave out one of the two.',
                    )
                )
            self.shares = GradientShares(
                gradient_shares, type(self).__name__, self.momentum
            )
        self.tau = tau
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.strong_share = strong_share
        self.round_ratio = round_ratio
        self.compiled = compile
        self._function = two_clusters
        if compile:
            self._function = compiled(
                two_clusters, 'compile', largest_alone=True, fullgraph=True
            )
        # The teacher's activation per sample in S and in W.
        self.activation = RunningMean((2,), self.momentum)
        self._checked_sign = False

    @classmethod
    def describe_clusters(cls, cfg: Mapping) -> str:
        """Say how much is strong, and by which scorer."""
        channels = setting(cfg, 'granularity') in ('pooled', 'channel')
        what = 'channels' if channels else 'elements of each row'
        share = 100 * setting(cfg, 'strong_share')
        by = class_name(setting(cfg, 'scorer')['type'])
        return f'strong = {share:g} % of the {what}, ranked by {by}'

    @property
    def one_class(self) -> bool:
        """That of the scorer."""
        return self.scorer.one_class

    @property
    def uses_indices(self) -> bool:
        """Whether the scorer tells images apart."""
        return self.scorer.by_image

    @property
    def auxiliary(self) -> Tensor | None:
        """The loss of this step that trains the scorer."""
        return self.scorer.auxiliary

    def norm_batches(
        self, inputs: Mapping[str, Any]
    ) -> list[tuple[RunningNorm, Tensor]]:
        """Return the teacher's rows for its standardisation and for the scorer."""
        teacher = self._prepared('preds_T', inputs['preds_T'])
        scored = to_scored(teacher, self.granularity)
        return super().norm_batches(inputs) + self.scorer.norm_batches(scored)

    def check_teacher(self, preds_T: Tensor) -> None:
        """Raise ValueError if the first batch is negative and the weight adaptive."""
        if self.gamma != ADAPTIVE or self._checked_sign:
            return
        # Only the first batch is checked, because the host waits for the result.
        self._checked_sign = True
        if preds_T.numel() and preds_T.min() < 0:
            raise ValueError(
                "gamma='adaptive' compares activations, but the teacher's feature "
                f'goes down to {preds_T.min().item():.3g}: tap a module after its '
                'ReLU (of a net with pre-activation blocks after the following BN and '
                'ReLU), or set gamma to a number.'
            )

    def compare(
        self,
        rows_S: Tensor,
        rows_T: Tensor,
        feature_T: Tensor,
        *,
        gt_labels: Tensor | None = None,
        head_weight: Tensor | None = None,
        head_bias: Tensor | None = None,
    ) -> Tensor:
        """Return the mean over the rows of the weighted terms, a scalar.

        Raises:
            ValueError: the scorer lacks what it needs or gives no score per
                channel, or a cluster would be empty.
        """
        arguments = {'gt_labels': gt_labels, 'head_weight': head_weight}
        for name in self.scorer.needs:
            required(self.scorer, name, arguments[name])
        # Only a pooled feature can be the input of the classifier.
        weight = head_weight if feature_T.dim() == 2 else None
        if weight is not None and weight.shape[-1] != feature_T.shape[1]:
            raise ValueError(
                f'head_weight has shape {tuple(weight.shape)}, but the feature has '
                f'{feature_T.shape[1]} channels: map it only where preds_T is the '
                'input of that classifier (model.distiller.loss_forward_mappings).'
            )
        strong = self._strong(feature_T, gt_labels, head_weight)
        row_mask = to_row_mask(strong, rows_T)
        # A map of one position has no clusters, of which r could be the ratio.
        if self.training and rows_T.shape[-1] > 1:
            self._take_in(feature_T, row_mask)
        terms = dict(self.scorer.terms)
        gamma: float | Tensor
        if isinstance(self.gamma, str):
            ratio = self.ratio
            if self.round_ratio:
                ratio = exp2(ratio.log2().round())
            gamma = terms['gamma'] = self.beta / ratio
        else:
            gamma = self.gamma
        if self.probing and weight is not None:
            terms |= kept(feature_T, strong, weight, head_bias)
        weights: Any = (self.alpha, self.beta, gamma)
        if self.shares is not None:
            weights = self.shares(rows_S, rows_T, row_mask, self.tau, weights)
            terms |= zip(SHARE_TERMS, weights, strict=True)
        scale = self.loss_weight * self.tau**2
        alpha, beta, gamma = (scale * weight for weight in weights)
        loss, divergences = weighted_kl(
            rows_S, rows_T, row_mask, self.tau, alpha, beta, gamma, self._function
        )
        self._own_rows = divergences.rows()
        self.log_terms(**terms)
        return loss

    @property
    def rows(self) -> dict[str, Tensor]:
        """The last step's divergences, what else has been logged, and r."""
        logged = super().rows
        return {'r': self.ratio, **logged} if logged else {}

    def terms_of(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return means, those of divergences with ``tau**2``."""
        return cluster_terms(rows, self.tau**2)

    def _strong(
        self, feature_T: Tensor, gt_labels: Tensor | None, head_weight: Tensor | None
    ) -> Tensor:
        """Return which channels (or elements of a row) are strong, bool (N, E)."""
        scored = to_scored(feature_T, self.granularity)
        indices, self.indices = self.indices, None
        tell_images(self.scorer, indices, feature_T)
        scores = self.scorer(scored, gt_labels, head_weight)
        if scores.shape != scored.shape[:2]:
            raise ValueError(
                f'{type(self.scorer).__name__} gave scores of shape '
                f'{tuple(scores.shape)} for a feature of shape {tuple(scored.shape)}: '
                f'return one per channel, {tuple(scored.shape[:2])}.'
            )
        return strongest(scores, self.count(scores.shape[-1]))

    def count(self, elements: int) -> int:
        """Return how many of a row's elements are strong.

        A channel of a map of 1 x 1 has one position, and so one possible distribution:
        it is strong, and all divergences are 0.

        Raises:
            ValueError: a cluster would be empty.
        """
        if elements == 1 and self.granularity == 'spatial':
            return 1
        count = math.floor(self.strong_share * elements + 0.5)
        if not 0 < count < elements:
            raise ValueError(
                f'strong_share={self.strong_share} of {elements} elements leaves the '
                f'{"weak" if count else "strong"} cluster empty: write a share '
                f'between {0.5 / elements:.2g} and {1 - 0.5 / elements:.2g}, or tap a '
                'wider feature.'
            )
        return count

    @torch.no_grad()
    def _take_in(self, feature_T: Tensor, mask: Tensor) -> None:
        """Let r follow the teacher's activation in the clusters of this batch."""
        both = cluster_sums(to_rows(feature_T, self.granularity), mask)
        batch = self.activation, both / max(len(feature_T), 1)
        if self.queue is None or self.gamma == ADAPTIVE:
            update_means([batch])
        else:
            self.queue.append(batch)  # r is only logged

    @property
    def ratio(self) -> Tensor:
        """The running r, the teacher's activation in S over that in W, a scalar."""
        value = self.activation.value
        # Before the first batch, and for all-zero features, the clusters are equal.
        strong, weak = value.clamp(min=torch.finfo(value.dtype).tiny)
        return (strong / weak).clamp(1e-3, 1e3)

    def warning(self, terms: dict[str, float]) -> str | None:
        """Return the warning of the scorer, or one of an unreasonable r."""
        ratio = terms.get('r', 1.0)
        if self.gamma == ADAPTIVE and not 1e-2 < ratio < 1e2:
            return (
                f"gamma='adaptive', but r = {ratio:.3g}: the teacher's feature is no "
                'activation (tap it after a ReLU), or set gamma to a number.'
            )
        return self.scorer.warning(terms)


def setting(cfg: Mapping, name: str) -> Any:
    """Return what a config of a :class:`CAKDFeatureLoss` sets, or its default."""
    default = signature(CAKDFeatureLoss.__init__).parameters[name].default
    value = cfg.get(name, default)
    return DEFAULT_SCORER if name == 'scorer' and not value else value


@torch.no_grad()
def kept(
    feature: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None
) -> dict[str, Tensor]:
    """Return which share of a classifier's predictions parts of its input repeat.

    Args:
        feature (Tensor): The classifier's input, (N, C).
        mask (Tensor): bool, (N, C), the strong channels.
        weight (Tensor): (K, C).
        bias (Tensor, optional): (K,).

    Returns:
        dict[str, Tensor]: ``kept_strong``, ``kept_weak`` and ``kept_random``, of as
        many random channels as the mask has strong ones.
    """
    weight = weight.to(feature.dtype)
    bias = None if bias is None else bias.to(feature.dtype)

    def predict(x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, weight, bias).argmax(-1)

    # The generator is a separate one, because a logged term must not change the run,
    # and that of the host, because those of devices draw other numbers.
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(feature.shape, generator=generator).argsort(-1)
    shuffled = mask.gather(-1, send(order, feature.device))
    parts = {'strong': mask, 'weak': ~mask, 'random': shuffled}
    whole = predict(feature)
    return {
        f'kept_{name}': (predict(feature * part) == whole).float().mean()
        for name, part in parts.items()
    }
