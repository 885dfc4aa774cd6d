"""The maths of CRD (arXiv 1910.10699) with memory banks: tensors in, tensors out.

Everything is computed from the logarithm of the scores, because their exponentials
would overflow at a low temperature.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...uniform_bits import uniform_bits
from .once import once_only

# Most scores of a bank that are in memory at a time: 256 MB in float32.
MOST_SCORES = 2**26
# An embedding that is shorter counts as zero.
LEAST_NORM = 1e-12


def unit(rows: Tensor) -> Tensor:
    """Divide rows by their L2 norm: (B, D) -> (B, D).

    A zero row stays zero, and its gradient is passed on as it is.
    """
    norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norm > LEAST_NORM, norm, 1.0)


# The loss


def candidate_scores(
    anchors: Tensor, bank: Tensor, candidates: Tensor, tau: float
) -> Tensor:
    """Return the similarity of anchors to rows of a bank, (B, M), divided by ``tau``.

    This is CRD, Eq. 19, before the exponential. ``anchors``, (B, D), and ``bank``,
    (N, D), hold embeddings of length 1; ``candidates``, int64 (B, M), are rows of the
    bank.
    """
    # To score the whole bank is much less work than to copy the rows of candidates.
    return (anchors @ bank.T).gather(1, candidates) / tau


def nce_rows(log_ratios: Tensor, num_samples: int, eps: float = 1e-7) -> Tensor:
    r"""Return the loss of telling the positive from noise, (B,).

    CRD, Eq. 17 and 18. With :math:`q = \exp(\text{log\_ratios})` the estimated
    probability of a pair and :math:`c = K / N` the noise, K negatives of N samples:

    .. math:: -\log\frac{q_0}{q_0 + c + eps} - \sum_{k=1}^K
        \log\frac{c}{q_k + c + eps}

    ``log_ratios`` is (B, 1 + K), with the positive pair first; ``num_samples`` is N.
    """
    count = log_ratios.shape[1] - 1
    noise = count / num_samples
    log_odds = log_ratios - math.log(noise + eps)
    positive = F.logsigmoid(log_odds[:, 0])
    negatives = F.logsigmoid(-log_odds[:, 1:]).sum(1)
    return -(positive + negatives + count * math.log(noise / (noise + eps)))


@torch.no_grad()
def log_sum_of_scores(
    anchors: Tensor, bank: Tensor, candidates: Tensor, tau: float
) -> Tensor:
    """Return the logarithm of the sum of all exponentiated scores, a scalar.

    It is -inf for an empty batch. The normaliser Z of CRD (after Eq. 19) is N times
    the mean of these exponentials. The arguments are those of
    :func:`candidate_scores`.
    """
    sums = [
        candidate_scores(anchors[rows], bank, candidates[rows], tau).logsumexp((0, 1))
        for rows in _parts(bank, candidates)
    ]
    return torch.stack(sums).logsumexp(0)


def contrastive_rows(
    anchors: Tensor,
    bank: Tensor,
    candidates: Tensor,
    log_z: Tensor,
    tau: float,
    eps: float = 1e-7,
) -> Tensor:
    """Return the loss of anchors against a bank, (B,), in bounded memory.

    CRD, Eq. 17 to 19. The gradient is computed along with the loss, in parts of
    the batch. Therefore the scores of the whole bank are not saved, and the bank may
    change before the backward pass.

    Args:
        anchors (Tensor): Embeddings of length 1, (B, D). Only they have a gradient,
            which cannot be differentiated again.
        bank (Tensor): Embeddings of the other net, (N, D).
        candidates (Tensor): int64, (B, 1 + K), the positive pair first.
        log_z (Tensor): Logarithm of the normaliser, a scalar.
        tau (float): Temperature.
        eps (float): As in :func:`nce_rows`. Defaults to 1e-7.
    """
    return _ContrastiveRows.apply(anchors, bank, candidates, log_z, tau, eps)


class _ContrastiveRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        bank: Tensor,
        candidates: Tensor,
        log_z: Tensor,
        tau: float,
        eps: float,
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        losses: list[Tensor] = []
        grads: list[Tensor] = []
        for rows in _parts(bank, candidates):
            part = anchors[rows].detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                scores = candidate_scores(part, bank, candidates[rows], tau)
                loss = nce_rows(scores - log_z, len(bank), eps)
                if wanted:
                    grads += torch.autograd.grad(loss.sum(), part)
            losses.append(loss.detach())
        ctx.save_for_backward(*([torch.cat(grads)] if wanted else []))
        return torch.cat(losses)

    @staticmethod
    @once_only
    def backward(ctx: Any, grad_rows: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grad_rows.unsqueeze(1), None, None, None, None, None


def _parts(bank: Tensor, candidates: Tensor) -> list[slice]:
    """Cut a batch so that a part has few enough scores; there is always one part."""
    size = max(MOST_SCORES // max(len(bank), 1), 1)
    return [slice(i, i + size) for i in range(0, max(len(candidates), 1), size)]


# The banks


@torch.no_grad()
def merge_repeats(indices: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give all rows of one sample their mean; replace rows that must not be stored.

    A row with a negative index (padding) or an embedding that is not finite is
    replaced by the good row of the lowest index. It takes O(B log B) time and O(B)
    memory, and no size depends on the data, so that the host need not wait for a GPU.
    ``indices`` is int64 (B,), B >= 1, and ``embeddings`` (B, E).

    Returns:
        tuple: Indices (B,), embeddings (B, E), equal for equal indices, and
        whether there is any good row at all, a bool scalar.
    """
    good = (indices >= 0) & embeddings.isfinite().all(1)
    # Rows that are not good come last, as if they were of one sample more, whose mean
    # nobody takes.
    keys = torch.where(good, indices, torch.iinfo(indices.dtype).max)
    ordered, order = keys.sort(stable=True)
    first = torch.searchsorted(ordered, ordered)
    counts = torch.searchsorted(ordered, ordered, right=True) - first
    places = torch.arange(len(ordered), device=ordered.device)
    # The rows of a sample are added in their order, and therefore to the same sum on
    # every rank. Places that are not the first of a sample get no rows.
    means = torch.segment_reduce(
        embeddings[order],
        'mean',
        lengths=torch.where(first == places, counts, 0),
        unsafe=True,  # otherwise the host would wait to check the lengths
    )
    source = torch.where(good, torch.searchsorted(ordered, keys), 0)
    valid = good.any()
    return torch.where(valid, ordered[source], 0), means[source], valid


@torch.no_grad()
def update_bank(
    bank: Tensor,
    indices: Tensor,
    embeddings: Tensor,
    momentum: float,
    valid: Tensor | bool = True,
) -> None:
    """Move rows of a bank towards new embeddings and bring them to length 1.

    ``bank[i] <- unit(momentum * bank[i] + (1 - momentum) * embedding``)``, in place.

    ``bank`` is (N, D), ``indices`` int64 (B,), and ``embeddings`` (B, D), where equal
    indices need equal embeddings. Nothing changes if ``valid``, a scalar, is False.
    """
    old = bank[indices]
    new = unit(torch.lerp(embeddings.to(old.dtype), old, momentum))
    bank.index_copy_(0, indices, torch.where(torch.as_tensor(valid), new, old))


# The negatives


class ClassBlocks(NamedTuple):
    """All samples, sorted by class.

    Attributes:
        order (Tensor): int32, (N,), the samples class by class.
        starts (Tensor): int64, (C + 1,), where each class begins in ``order``.
    """

    order: Tensor
    starts: Tensor


def sort_by_class(labels: Tensor) -> ClassBlocks:
    """Sort the samples of a training set by class: integer (N,) -> blocks.

    The labels are >= 0 and may leave classes out. :func:`draw_others` needs these
    N + C + 1 integers only, where lists of the other samples of every class would
    have N * (C - 1).
    """
    counts = torch.bincount(labels)
    starts = F.pad(counts.cumsum(0), (1, 0))
    return ClassBlocks(labels.argsort(stable=True).int(), starts)


def draw_others(
    indices: Tensor,
    labels: Tensor,
    blocks: ClassBlocks,
    count: int,
    seed: Tensor,
    step: Tensor,
) -> Tensor:
    """Draw samples of other classes with replacement: (B,) -> int64 (B, K).

    A sample's draws follow from ``seed``, ``step`` and its index alone. They are
    the same on any device, on any number of ranks and at any place of a batch. Each
    of the n samples of the other classes is drawn with a probability within 2**-62 of
    1 / n.

    Args:
        indices (Tensor): The samples to draw for, int64, (B,).
        labels (Tensor): Class of every sample, integers, (N,); at least two
            classes have samples.
        blocks (ClassBlocks): Of the same samples.
        count (int): Draws for each sample, K.
        seed (Tensor): int64 scalar.
        step (Tensor): int64 scalar, another one in every step.
    """
    classes = labels[indices].long()
    start = blocks.starts[classes].unsqueeze(1)
    size = blocks.starts[classes + 1].unsqueeze(1) - start
    place = uniform_bits(indices, count, seed, step) % (len(labels) - size)
    # Places from the sample's own class on are moved behind its block.
    place = place.add_(size * (place >= start))
    return blocks.order[place].long()
