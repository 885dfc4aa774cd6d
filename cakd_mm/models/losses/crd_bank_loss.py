"""CRD with a memory bank of the whole training set."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from mmengine.dist import all_gather, get_world_size
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...utils.errors import describe
from ...utils.transfer import send
from ..checks import check_float_tensor, check_number, index_outside, is_count
from ..layout import pool
from ..term_axis import TermAxis
from .base import DistillLoss
from .functional import batch_mean
from .functional.crd import (
    ClassBlocks,
    contrastive_rows,
    draw_others,
    log_sum_of_scores,
    merge_repeats,
    sort_by_class,
    unit,
    update_bank,
)

HOOK = "default_hooks=dict(sample_index=dict(type='SampleIndexHook'))"
# Rows of a bank that are drawn at a time.
_ROWS = 2**14


@MODELS.register_module()
class CRDBankLoss(DistillLoss):
    r"""Contrastive representation distillation with memory banks.

    "Contrastive Representation Distillation", arXiv 1910.10699, Eq. 17-19. A trained
    linear layer turns the feature of each net into an embedding, a unit vector of
    ``feat_dim``, and a bank of each net holds the last embedding of every image of the
    training set. The loss of an embedding is low if the other net's embedding of the
    same image can be told from those of ``negatives`` images of other classes. With K
    negatives, N images and :math:`c = K/N` it is for the student (and likewise for the
    teacher, from the student's bank):

    .. math:: q_k = e^{\langle M^T_{i_k}, v^S\rangle / \tau} / Z^S, \quad
        L^S = -mean\left[\log\frac{q_0}{q_0 + c} + \sum_{k=1}^K
        \log\frac{c}{q_k + c}\right]

    The loss is :math:`L^S + L^T`. Z is N times the mean of the exponentials in the very
    first batch, and stays. Then, in training,
    ``bank[i] <- unit(momentum * bank[i] + (1 - momentum) * v)``.

    The training set's labels and the index of every image in it come from a
    :class:`SampleIndexHook`. Negatives follow from the run's seed, the step and the
    image alone, and are drawn with replacement. Banks, Z and step are buffers, so that
    a resumed run goes on as if it had not been interrupted. Checkpoints, and the
    memory of every GPU, grow by ``8 * feat_dim * N`` bytes: 51 MB for CIFAR-100,
    1.3 GB for ImageNet. Every rank enters the embeddings of all ranks into its banks.
    An image that comes several times in a step is entered once, with the mean of its
    embeddings; an embedding that is not finite is not entered.

    ``terms`` holds the last step's ``nce_S`` and ``nce_T``, which add up to the loss
    without ``loss_weight``.

    Args:
        channels_S (int): Channels of the student's feature.
        channels_T (int): Channels of the teacher's feature.
        feat_dim (int): Width of the embeddings. Defaults to 128.
        negatives (int): Negatives of each image, K. Defaults to 16384.
        tau (float): Temperature that divides similarities. Defaults to 0.07.
        momentum (float): Weight of a bank's old row, in [0, 1). Defaults to 0.5.
        loss_weight (float): Factor of the whole loss. Defaults to 0.8.

    Raises:
        ValueError: a setting is out of range.
    """

    any_size = True  # Maps are averaged to vectors.
    needs_dataset = True
    term_labels = {
        'nce_S': (
            TermAxis.CONTRASTIVE,
            "nce_S: of the student's embeddings in the teacher's bank",
        ),
        'nce_T': (
            TermAxis.CONTRASTIVE,
            "nce_T: of the teacher's embeddings in the student's bank",
        ),
    }
    bank_S: Tensor
    bank_T: Tensor
    log_z: Tensor
    has_z: Tensor
    labels: Tensor
    seed: Tensor
    steps: Tensor
    order: Tensor
    starts: Tensor

    def __init__(
        self,
        channels_S: int,
        channels_T: int,
        feat_dim: int = 128,
        negatives: int = 16384,
        tau: float = 0.07,
        momentum: float = 0.5,
        loss_weight: float = 0.8,
    ) -> None:
        super().__init__(loss_weight)
        counts = dict(channels_S=channels_S, channels_T=channels_T)
        counts |= dict(feat_dim=feat_dim, negatives=negatives)
        for name, value in counts.items():
            if not is_count(value):
                raise ValueError(
                    f'{name} must be a positive integer, got {value!r}: set {name} in '
                    'the config of CRDBankLoss.'
                )
        check_number(self, 'tau', tau, positive=True)
        check_number(self, 'momentum', momentum)
        if momentum >= 1:
            raise ValueError(
                f'momentum must be in [0, 1), got {momentum!r}: the banks would never '
                'change. Write momentum=0.5, say, in the config of CRDBankLoss.'
            )
        self.feat_dim = feat_dim
        self.negatives = negatives
        self.tau = tau
        self.momentum = momentum
        self.embed_S = nn.Linear(channels_S, feat_dim)
        self.embed_T = nn.Linear(channels_T, feat_dim)
        self.register_buffer('bank_S', torch.zeros(0, feat_dim))
        self.register_buffer('bank_T', torch.zeros(0, feat_dim))
        # For the student's embeddings and for the teacher's.
        self.register_buffer('log_z', torch.zeros(2))
        self.register_buffer('has_z', torch.zeros((), dtype=torch.bool))
        self.register_buffer('labels', torch.zeros(0, dtype=torch.int32))
        self.register_buffer('seed', torch.zeros((), dtype=torch.int64))
        self.register_buffer('steps', torch.zeros((), dtype=torch.int64))
        # These two are computed from the labels and therefore not saved.
        self.register_buffer('order', None, persistent=False)
        self.register_buffer('starts', None, persistent=False)
        self.batch_size = 0
        self._reuse_z = False  # what the host knows of has_z

    @classmethod
    def wanted_widths(cls, cfg: Mapping) -> dict[str, str]:
        """Ask for the channels of both features."""
        return {'channels_S': 'student', 'channels_T': 'teacher'}

    # The training set

    def set_dataset(
        self, labels: np.ndarray | Tensor, seed: int = 0, batch_size: int = 0
    ) -> None:
        """Take up the training set; fill banks unless a checkpoint has done so.

        Args:
            labels (np.ndarray | Tensor): Class of every image, integers, (N,).
            seed (int): Seed of first banks and negatives, the same on all ranks; that
                of a checkpoint goes before it. Defaults to 0.
            batch_size (int): Images per step and rank at most; needed where ranks
                may have batches of different sizes. Defaults to 0.

        Raises:
            ValueError: these are no class indices of at least two classes, or not
                those of the banks.
        """
        classes = _checked_labels(labels)
        self.batch_size = batch_size
        if len(self.labels):
            self._compare(classes, 'train_dataloader.dataset')
            return
        self._take_up(classes)
        generator = torch.Generator().manual_seed(seed)
        bound = (self.feat_dim / 3) ** -0.5
        self.seed.fill_(seed)
        for bank in (self.bank_S, self.bank_T):
            for rows in bank.split(_ROWS):
                # They are drawn on the CPU, so that all devices get the same numbers.
                rows.copy_(
                    torch.empty(rows.shape).uniform_(-bound, bound, generator=generator)
                )

    def _take_up(self, labels: Tensor) -> None:
        """Allocate banks for these samples and sort them by class."""
        device, dtype = self.embed_S.weight.device, self.bank_S.dtype
        self.order, self.starts = (x.to(device) for x in sort_by_class(labels))
        self.labels = labels.to(device, torch.int32)
        self.bank_S, self.bank_T = (
            torch.empty(len(labels), self.feat_dim, dtype=dtype, device=device)
            for _ in range(2)
        )

    def _compare(self, labels: Tensor, key: str) -> None:
        """Raise ValueError unless the banks are those of these labels."""
        banked, new = self.labels.cpu(), labels.to('cpu', torch.int32)
        if torch.equal(banked, new):
            return
        problem = f'has {len(banked)} images, this has {len(new)}.'
        if len(banked) == len(new):
            first = int((banked != new).nonzero()[0])
            problem = (
                f'has other labels: image {first} is of class {banked[first]}, here '
                f'of class {new[first]}.'
            )
        raise ValueError(
            describe(
                key,
                f'{len(new)} images',
                f'The bank of CRDBankLoss {problem}',
                'Resume with the same training set (files, order, indices); to start '
                'from this student on another set write model.student_ckpt=... '
                'instead of load_from.',
            )
        )

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Load banks, which must be those of the training set if it is known."""
        labels = state_dict.get(f'{prefix}labels')
        if labels is not None and len(labels):
            if len(self.labels):
                self._compare(labels, 'load_from')
            else:
                self._take_up(labels.long())
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._reuse_z = bool(self.has_z)

    # The loss

    def forward(
        self, preds_S: Tensor, preds_T: Tensor, indices: Tensor | None = None
    ) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        In training the embeddings are entered into the banks.

        Args:
            preds_S (Tensor): The student's feature, (B, C_S), or a map
                (B, C_S, H, W), which is averaged over its positions.
            preds_T (Tensor): The teacher's, (B, C_T) or a map; no gradient.
            indices (Tensor, optional): Place of every image in the training set,
                integers, (B,). Defaults to ``self.indices``, which
                :class:`SampleIndexHook` sets and a step uses up.

        Raises:
            RuntimeError: no training set, or no indices were given.
            TypeError: a feature is no float tensor.
            ValueError: shapes do not fit, or an index is out of range. Indices on a
                GPU are not checked, because the host would have to wait for them.
        """
        vectors_S = _vectors('S', preds_S, self.embed_S)
        vectors_T = _vectors('T', preds_T, self.embed_T).detach()
        indices = self._checked_indices(indices, vectors_S, vectors_T)
        with torch.autocast(vectors_S.device.type, enabled=False):
            unit_S = unit(self.embed_S(vectors_S))
            unit_T = unit(self.embed_T(vectors_T))
            candidates = torch.cat((indices.unsqueeze(1), self.draw(indices)), 1)
            sides = ((unit_S, self.bank_T), (unit_T, self.bank_S))
            log_z = self._normalisers(sides, candidates)
            rows_S, rows_T = (
                contrastive_rows(anchors, bank, candidates, log_z_of_side, self.tau)
                for (anchors, bank), log_z_of_side in zip(sides, log_z, strict=True)
            )
            if self.training:
                self._enter(indices, torch.cat((unit_S, unit_T), 1).detach())
                self.steps.add_(1)
        self.log_terms(nce_S=rows_S, nce_T=rows_T)
        return self.loss_weight * batch_mean(rows_S + rows_T)

    def draw(self, indices: Tensor) -> Tensor:
        """Return the negatives of images in this step: (B,) -> int64 (B, K)."""
        blocks = ClassBlocks(self.order, self.starts)
        return draw_others(
            indices, self.labels, blocks, self.negatives, self.seed, self.steps
        )

    def _checked_indices(
        self, indices: Tensor | None, vectors_S: Tensor, vectors_T: Tensor
    ) -> Tensor:
        count = len(vectors_S)
        if indices is None:
            indices, self.indices = self.indices, None
        if not len(self.labels) or indices is None:
            what = 'the index of its images' if len(self.labels) else 'a training set'
            raise RuntimeError(
                f'CRDBankLoss was not given {what}: write {HOOK}, or call its '
                'set_dataset(labels) and give its forward indices=...'
            )
        if len(vectors_T) != count:
            raise ValueError(
                f'preds_S is of {count} images and preds_T of {len(vectors_T)}: both '
                'nets must see the same batch.'
            )
        whole = not (indices.is_floating_point() or indices.dtype == torch.bool)
        if indices.shape != (count,) or not whole:
            raise ValueError(
                f'indices must be integers of shape ({count},), one per image, got '
                f'{indices.dtype} of shape {tuple(indices.shape)}.'
            )
        outside = index_outside(indices, len(self.labels))
        if outside is not None:
            raise ValueError(
                f'indices holds {outside}, but the training set has '
                f'{len(self.labels)} images: give places in that set.'
            )
        # The host does not wait for what a GPU has yet to do.
        return send(indices.long(), self.labels.device)

    # What ranks share

    def _normalisers(
        self, sides: tuple[tuple[Tensor, Tensor], ...], candidates: Tensor
    ) -> Tensor:
        """Return log Z of both sides, (2,), from the first batch of all ranks."""
        if self._reuse_z:
            return self.log_z
        sums = [
            log_sum_of_scores(anchors, bank, candidates, self.tau)
            for anchors, bank in sides
        ]
        of_rank = torch.stack((*sums, sums[0].new_full((), candidates.numel()).log()))
        total = torch.stack(all_gather(of_rank)).logsumexp(0)
        log_z = total[:2] - total[2] + math.log(len(self.labels))
        if self.training:
            # A Z that is not finite is not saved, because every later step would use
            # it.
            self.has_z.copy_(log_z.isfinite().all())
            self.log_z.copy_(torch.where(self.has_z, log_z, 0.0))
            # The host waits for it here, in the first step, and in no later one.
            self._reuse_z = bool(self.has_z)
        return log_z

    def _enter(self, indices: Tensor, both: Tensor) -> None:
        """Enter the embeddings, (B, 2 * D), of all ranks into both banks."""
        if get_world_size() > 1:
            # All ranks must send tensors of one size; -1 marks a row without an image.
            self.batch_size = max(self.batch_size, len(indices))
            missing = self.batch_size - len(indices)
            indices = nn.functional.pad(indices, (0, missing), value=-1)
            both = nn.functional.pad(both, (0, 0, 0, missing))
            indices, both = _of_all_ranks(indices, both)
        if not len(indices):
            return
        indices, both, valid = merge_repeats(indices, both)
        for bank, new in zip((self.bank_S, self.bank_T), both.chunk(2, 1), strict=True):
            update_bank(bank, indices, new, self.momentum, valid)

    def extra_repr(self) -> str:
        """Show the settings in a printed model."""
        return f'images={len(self.labels)}, {super().extra_repr()}'


def _vectors(side: str, feature: Tensor, layer: nn.Linear) -> Tensor:
    """Return a feature as vectors that the layer can take, (B, C)."""
    name, key, width = f'preds_{side}', f'channels_{side}', layer.in_features
    check_float_tensor(name, feature)
    # The mean over a map is not rounded to half precision.
    vectors = pool(feature.to(layer.weight.dtype))
    if vectors.dim() != 2 or vectors.shape[1] != width:
        raise ValueError(
            f'{name} has shape {tuple(feature.shape)}, but {key}={width}: tap vectors '
            f'(N, {width}) or maps (N, {width}, H, W) (the neck, say), or correct '
            f'{key} in the config of CRDBankLoss.'
        )
    return vectors


def _of_all_ranks(indices: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return int64 (B,) and float (B, E) of all ranks, one below the other."""
    # The bytes of the indices go as more columns of the rows, so that one exchange
    # does for both.
    sent = torch.cat((rows, indices.unsqueeze(1).view(rows.dtype)), 1)
    received = torch.cat(all_gather(sent))
    rows, columns = received.tensor_split((rows.shape[1],), 1)
    return columns.contiguous().view(torch.int64).squeeze(1), rows


def _checked_labels(given: np.ndarray | Tensor) -> Tensor:
    """Return the classes of a training set as int64 on the CPU, (N,)."""
    labels = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        problem = 'CRD draws negatives from other classes, so it needs one class each.'
        remedy = 'Use a set with one class index per image, or another loss.'
    elif len(labels) and not 0 <= labels.min() <= labels.max() < 2**31:
        problem = 'A class index is negative or far too large.'
        remedy = 'Number classes from 0.'
    elif len(np.unique(labels)) < 2:
        problem = 'There are no images of another class to contrast one with.'
        remedy = 'Use a set of two or more classes, or another loss.'
    else:
        return torch.from_numpy(labels.astype(np.int64))
    kind = f'labels {labels.dtype}{labels.shape}'
    raise ValueError(describe('train_dataloader.dataset', kind, problem, remedy))
