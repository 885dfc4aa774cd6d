"""The losses of CAKD by native kernels: float32 tensors of the host.

Each returns what its twin in ``models/losses`` does, up to rounding.
"""

import torch
from torch import Tensor

from .library import library


def single_label(
    preds_S: Tensor,
    preds_T: Tensor,
    labels: Tensor,
    tau: float,
    alpha: float,
    gamma: float,
) -> tuple[Tensor, ...]:
    """Return the loss of one label per row, its gradient, and ``LabelTerms``.

    Args:
        preds_S (Tensor): The student's scores, (N, C) float32.
        preds_T (Tensor): The teacher's, as many.
        labels (Tensor): Class indices, (N,) int64.
        tau (float): Temperature.
        alpha (float): Weight of BCD.
        gamma (float): Weight of WCD.

    Raises:
        BuildError: the kernels cannot be built here.
        RuntimeError: a label is no class.
        ValueError: a tensor has another shape or dtype.
    """
    student, teacher = preds_S.contiguous(), preds_T.contiguous()
    labels = labels.contiguous()
    _check(student, teacher, labels, torch.int64, student.shape[:1])
    rows, classes = student.shape
    loss, grad = student.new_empty(()), student.new_empty(rows, classes)
    log_total, cost = student.new_empty(2, rows, 1), student.new_empty(2, rows, 1)
    within, weak_mass = student.new_empty(rows, 1), student.new_empty(rows, 1)
    wrong = library().cakd_single_label(
        student.data_ptr(),
        teacher.data_ptr(),
        labels.data_ptr(),
        rows,
        classes,
        tau,
        alpha,
        gamma,
        torch.get_num_threads(),
        loss.data_ptr(),
        grad.data_ptr(),
        log_total.data_ptr(),
        cost.data_ptr(),
        within.data_ptr(),
        weak_mass.data_ptr(),
    )
    if wrong >= 0:
        raise RuntimeError(f'row {wrong} has a label out of bounds')
    return loss, grad, log_total, cost, within, weak_mass


def clusters(
    preds_S: Tensor,
    preds_T: Tensor,
    mask: Tensor,
    tau: float,
    alpha: float,
    beta: float,
    gamma: float | Tensor,
) -> tuple[Tensor, ...]:
    """Return the weighted sum of every row, its gradient, three terms and a mass.

    Args:
        preds_S (Tensor): The student's scores, (N, C) float32.
        preds_T (Tensor): The teacher's, as many.
        mask (Tensor): bool, (N, C); True where an element is in S.
        tau (float): Temperature.
        alpha (float): Weight of BCD.
        beta (float): Weight of SCD.
        gamma (float | Tensor): Weight of WCD.

    Raises:
        BuildError: the kernels cannot be built here.
        ValueError: a tensor has another shape or dtype.
    """
    student, teacher = preds_S.contiguous(), preds_T.contiguous()
    mask = mask.contiguous()
    _check(student, teacher, mask, torch.bool, student.shape)
    rows, classes = student.shape
    value, grad = student.new_empty(rows), student.new_empty(rows, classes)
    bcd, scd, wcd, mass = student.new_empty(4, rows).unbind()
    library().cakd_clusters(
        student.data_ptr(),
        teacher.data_ptr(),
        mask.data_ptr(),
        rows,
        classes,
        tau,
        alpha,
        beta,
        float(gamma),
        torch.get_num_threads(),
        value.data_ptr(),
        grad.data_ptr(),
        bcd.data_ptr(),
        scd.data_ptr(),
        wcd.data_ptr(),
        mass.data_ptr(),
    )
    return value, grad, bcd, scd, wcd, mass


def strongest(scores: Tensor, count: int) -> Tensor:
    """Mark the ``count`` highest scores of every row: (N, E) -> bool (N, E).

    Of equal scores the first are taken; nan counts as the highest.

    Raises:
        BuildError: the kernels cannot be built here.
        ValueError: scores are not of float32.
    """
    scores = scores.contiguous()
    if scores.dtype != torch.float32:
        raise ValueError(f'scores are {scores.dtype}')
    rows, elements = scores.shape
    mask = scores.new_empty(rows, elements, dtype=torch.bool)
    threads = torch.get_num_threads()
    library().cakd_strongest(
        scores.data_ptr(), rows, elements, count, threads, mask.data_ptr()
    )
    return mask


def cluster_sums(rows: Tensor, mask: Tensor) -> Tensor:
    """Return the sums of all elements in S and of all in W: two (N, E) -> (2,).

    Raises:
        BuildError: the kernels cannot be built here.
        ValueError: a tensor has another shape or dtype.
    """
    rows, mask = rows.contiguous(), mask.contiguous()
    _check(rows, rows, mask, torch.bool, rows.shape)
    sums = rows.new_empty(2)
    count, length = rows.shape
    library().cakd_cluster_sums(
        rows.data_ptr(),
        mask.data_ptr(),
        count,
        length,
        torch.get_num_threads(),
        sums.data_ptr(),
    )
    return sums


def _check(
    student: Tensor, teacher: Tensor, third: Tensor, dtype: torch.dtype, shape: tuple
) -> None:
    """Refuse what a kernel would read as something else, or beyond its end."""
    for given, kind, size in (
        (student, torch.float32, student.shape),
        (teacher, torch.float32, student.shape),
        (third, dtype, shape),
    ):
        if given.dtype != kind or given.shape != size or given.dim() > 2:
            raise ValueError(
                f'{given.dtype} of {tuple(given.shape)}, where {kind} of '
                f'{tuple(size)} belongs'
            )
