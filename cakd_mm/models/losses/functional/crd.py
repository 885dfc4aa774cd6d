"""The maths of CRD (arXiv 1910.10699) with memory banks: tensors in, tensors out.

Everything is worked out from the logarithm of the scores: at a low temperature
their exponentials would overflow.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Most scores of a bank held at a time: 256 MB in float32.
MOST_SCORES = 2**26
# Below this an embedding counts as zero.
_TINY = 1e-12


def unit(rows: Tensor) -> Tensor:
    """Divide rows by their L2 norm: (B, D) -> (B, D); a zero row stays zero.

    The gradient of a zero row is passed on as it is.
    """
    norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norm > _TINY, norm, 1.0)


def candidate_scores(
    anchors: Tensor, bank: Tensor, candidates: Tensor, tau: float
) -> Tensor:
    """Return the similarity of anchors to rows of a bank, divided by ``tau``.

    CRD, Eq. 19, before the exponential.

    Args:
        anchors (Tensor): Embeddings of length 1, (B, D).
        bank (Tensor): (N, D).
        candidates (Tensor): Rows of the bank to compare with, int64, (B, M).
        tau (float): Temperature.

    Returns:
        Tensor: (B, M).
    """
    # To score the whole bank is much less work than to copy the rows of candidates.
    return (anchors @ bank.T).gather(1, candidates) / tau


def nce_rows(log_ratios: Tensor, num_samples: int, eps: float = 1e-7) -> Tensor:
    r"""Return the loss of telling the positive from noise, per row.

    CRD, Eq. 17 and 18. With :math:`q = \exp(\text{log\_ratios})` the estimated
    probability of a pair and :math:`c = K / N` the noise, K negatives of N samples:

    .. math:: -\log\frac{q_0}{q_0 + c + eps} - \sum_{k=1}^K
        \log\frac{c}{q_k + c + eps}

    Args:
        log_ratios (Tensor): (B, 1 + K), the positive pair first.
        num_samples (int): N, the samples of the training set.
        eps (float): Added to both denominators. Defaults to 1e-7.

    Returns:
        Tensor: (B,).
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

    Arguments are those of :func:`candidate_scores`; -inf for an empty batch. The
    normaliser Z of CRD (after Eq. 19) is N times the mean of these exponentials.
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
    """Return the loss of anchors against a bank, per row, in bounded memory.

    CRD, Eq. 17 to 19. The gradient is computed along with the loss, in parts of
    the batch, so that neither the scores of the whole bank nor its rows are kept,
    and the bank may change before the backward.

    Args:
        anchors (Tensor): Embeddings of length 1, (B, D); the only ones with a
            gradient, and once only.
        bank (Tensor): Embeddings of the other net, (N, D).
        candidates (Tensor): int64, (B, 1 + K), the positive pair first.
        log_z (Tensor): Logarithm of the normaliser, a scalar.
        tau (float): Temperature.
        eps (float): As in :func:`nce_rows`. Defaults to 1e-7.

    Returns:
        Tensor: (B,).
    """
    return _ContrastiveRows.apply(anchors, bank, candidates, log_z, tau, eps)


class _ContrastiveRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, anchors, bank, candidates, log_z, tau, eps) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        losses, grads = [], []
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
    @once_differentiable
    def backward(ctx, grad_rows: Tensor):
        (grad,) = ctx.saved_tensors
        return grad * grad_rows.unsqueeze(1), None, None, None, None, None


def _parts(bank: Tensor, candidates: Tensor) -> list[slice]:
    """Cut a batch so that a part has few enough scores; there is always one part."""
    size = max(MOST_SCORES // max(len(bank), 1), 1)
    return [slice(i, i + size) for i in range(0, max(len(candidates), 1), size)]


@torch.no_grad()
def merge_repeats(indices: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give all rows of one sample their mean; leave out what must not be stored.

    Rows with a negative index (padding) or an embedding that is not finite are left
    out: they stand for the first good row instead. No size depends on the
    data, so a GPU need not be waited for. Takes B * B integers.

    Args:
        indices (Tensor): Sample of each row, int64, (B,), B >= 1.
        embeddings (Tensor): (B, E).

    Returns:
        tuple: Indices (B,), embeddings (B, E), equal for equal indices, and
        whether there is any good row at all, a bool scalar.
    """
    good = (indices >= 0) & embeddings.isfinite().all(1)
    embeddings = torch.where(good.unsqueeze(1), embeddings, 0.0)
    same = (indices.unsqueeze(1) == indices) & good
    means = same.to(embeddings.dtype) @ embeddings
    means = means / same.sum(1, keepdim=True).clamp(min=1)
    places = torch.arange(len(indices), device=indices.device, dtype=torch.int32)
    nowhere = len(indices)
    first = torch.where(same, places, nowhere).amin(1)
    fallback = torch.where(good, places, nowhere).amin().clamp(max=nowhere - 1)
    source = torch.where(first < nowhere, first, fallback).long()
    return indices[source].clamp(min=0), means[source], good.any()


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

    Args:
        bank (Tensor): (N, D).
        indices (Tensor): int64, (B,); equal ones need equal embeddings.
        embeddings (Tensor): (B, D).
        momentum (float): Weight of what the bank has.
        valid (Tensor | bool): bool scalar; False leaves the bank as it is.
    """
    old = bank[indices]
    new = unit(torch.lerp(embeddings.to(old.dtype), old, momentum))
    bank.index_copy_(0, indices, torch.where(torch.as_tensor(valid), new, old))
