"""Pairs of maps, made from the feature lists of both nets."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import check_float_tensor


def paired_maps(
    preds_S: Sequence[Tensor], preds_T: Sequence[Tensor], same_size: bool = True
) -> list[tuple[Tensor, Tensor]]:
    """Pair the features of student and teacher, as maps, level by level.

    A vector (N, C) counts as a map (N, C, 1, 1). Half precision becomes float32.
    The teacher's maps are detached. Both lists need the same length, N and C, and the
    same H and W unless ``same_size`` is False.

    Raises:
        TypeError: an argument is no list of float tensors.
        ValueError: lists or shapes do not fit.
    """
    for name, features in (('preds_S', preds_S), ('preds_T', preds_T)):
        if not isinstance(features, (list, tuple)):
            raise TypeError(
                f'{name} must be a list of maps, got {type(features).__name__}: write '
                f"{name}=dict(recorder=['stage1', 'stage2'], ...) in "
                'loss_forward_mappings.'
            )
    if len(preds_S) != len(preds_T) or not preds_S:
        raise ValueError(
            f'preds_S has {len(preds_S)} maps and preds_T {len(preds_T)}: name as many '
            'recorders of the student as of the teacher, at least one.'
        )
    pairs = []
    for level, (student, teacher) in enumerate(zip(preds_S, preds_T, strict=True)):
        ours = _as_map(f'preds_S[{level}]', student)
        theirs = _as_map(f'preds_T[{level}]', teacher)
        dims = 4 if same_size else 2
        if ours.shape[:dims] != theirs.shape[:dims]:
            raise ValueError(
                f'preds_S[{level}] has shape {tuple(ours.shape)} and preds_T[{level}] '
                f"{tuple(theirs.shape)}: bring the student's to the teacher's by a "
                'MapConnector for each, or by one FusionConnector. Their out_channels'
                f'{", size and out_sizes" if same_size else ""} are read off the '
                "teacher's if you leave them out."
            )
        double = torch.float64 in (ours.dtype, theirs.dtype)
        dtype = torch.float64 if double else torch.float32
        pairs.append((ours.to(dtype), theirs.detach().to(dtype)))
    return pairs


def _as_map(name: str, feature: Tensor) -> Tensor:
    remedy = 'data_idx=0, or a list with a number or None for each recorder,'
    check_float_tensor(name, feature, remedy)
    if feature.dim() not in (2, 4):
        raise ValueError(
            f'{name} has shape {tuple(feature.shape)}: tap a map (N, C, H, W) or a '
            'vector (N, C). Tokens (N, L, C) become a map by TokensToMapConnector, on '
            "the teacher's side as well."
        )
    return feature[:, :, None, None] if feature.dim() == 2 else feature
