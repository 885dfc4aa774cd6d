"""Stand-ins for the compiled operations of mmcv, where mmcv was built without them.

mmdet imports the module that holds them before it builds any model, and most models
need one or two of them alone. Those two are torchvision's as well.
"""

from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor

# What needs an operation, by the beginning of its name. Others need none of these.
NEEDED_BY = {
    'softnms': 'soft-NMS (test_cfg.nms.type="soft_nms")',
    'nms_match': 'PISA, OTA with nms_match',
    'nms_rotated': 'detectors of rotated boxes',
    'nms_quadri': 'detectors of rotated boxes',
    'modulated_deform_conv': 'deformable convolutions (dcn=dict(type="DCNv2")), DyHead',
    'deform_conv': 'deformable convolutions (dcn=dict(type="DCN")), RepPoints, VFNet, '
    'Guided Anchoring',
    'deform_roi_pool': 'deformable RoI pooling',
    'ms_deform_attn': 'Deformable DETR, DINO, Mask2Former on a GPU',
    'carafe': 'CARAFE',
    'masked_': 'Guided Anchoring',
    'psamask': 'PSANet',
    'roi_pool': 'RoIPool; RoIAlign does without',
    'softmax_focal_loss': "mmcv's softmax focal loss",
}


class MissingOperationError(ImportError):
    """An operation that mmcv lacks here is needed."""


class PlainOperations(ModuleType):
    """The module ``mmcv._ext`` of an mmcv that was built without it.

    ``nms`` and RoIAlign are torchvision's, which gives the same to rounding, and the
    focal loss of sigmoids is PyTorch's arithmetic. Every other operation exists by
    name, because mmcv looks for all of them when it is imported, and raises when it is
    called.
    """

    def __init__(self) -> None:
        super().__init__('mmcv._ext')
        # mmengine looks for the module by its specification.
        self.__spec__ = ModuleSpec(self.__name__, None)
        self.nms = nms
        self.roi_align_forward = roi_align_forward
        self.roi_align_backward = roi_align_backward
        self.sigmoid_focal_loss_forward = sigmoid_focal_loss_forward
        self.sigmoid_focal_loss_backward = sigmoid_focal_loss_backward

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        return partial(_refuse, name)


def _refuse(name: str, *_: Any, **__: Any) -> NoReturn:
    """Say which operation is missing, and what needs it."""
    users = next((x for start, x in NEEDED_BY.items() if name.startswith(start)), None)
    needed = f', which {users} need' if users else ''
    raise MissingOperationError(
        f'mmcv was installed without compiled operations, and {name} is one of '
        f'them{needed}. Remedy: a model without it, or an mmcv that was built with '
        'operations for this PyTorch (MMCV_WITH_OPS=1 pip install --no-build-isolation '
        '--no-binary onedl-mmcv onedl-mmcv).'
    )


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the places of the boxes that stay, those of the highest scores first.

    Args:
        boxes (Tensor): x1, y1, x2, y2 of each, (N, 4).
        scores (Tensor): (N,).
        iou_threshold (float): A box goes that overlaps a better one by more.
        offset (int): What a box is wider and higher than its corners say, 0 or 1.
    """
    from torchvision.ops import nms as keep

    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # torchvision computes in the type of the boxes, which has to be that of the scores.
    return keep(boxes, scores.to(boxes.dtype), iou_threshold)


def roi_align_forward(
    inputs: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the pooled regions, (R, C, height, width), into ``output``."""
    from torchvision.ops import roi_align

    _refuse_maximum(pool_mode)
    size = aligned_height, aligned_width
    output.copy_(
        roi_align(inputs, rois.to(inputs), size, spatial_scale, sampling_ratio, aligned)
    )


def roi_align_backward(
    gradient: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    output: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the gradient by the maps, (N, C, H, W), into ``output``."""
    from torchvision.ops import roi_align

    _refuse_maximum(pool_mode)
    size = aligned_height, aligned_width
    with torch.enable_grad():
        # The pooling is linear in the maps, so that any map has the same gradient.
        maps = torch.zeros_like(output).requires_grad_()
        pooled = roi_align(
            maps, rois.to(maps), size, spatial_scale, sampling_ratio, aligned
        )
    output.copy_(torch.autograd.grad(pooled, maps, gradient)[0])


def _refuse_maximum(pool_mode: int) -> None:
    if not pool_mode:
        _refuse('roi_align_forward with pool_mode="max"')


def sigmoid_focal_loss_forward(
    inputs: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the focal loss of every class, (N, K), into ``output``."""
    output.copy_(_sigmoid_focal_loss(inputs, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    inputs: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the gradient of the sum of the losses, (N, K), into ``output``."""
    with torch.enable_grad():
        scores = inputs.detach().requires_grad_()
        loss = _sigmoid_focal_loss(scores, target, weight, gamma, alpha).sum()
    output.copy_(torch.autograd.grad(loss, scores)[0])


def _sigmoid_focal_loss(
    inputs: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float
) -> Tensor:
    """Return the loss of classes (N, K) whose targets, (N,), are K for none of them."""
    from torchvision.ops import sigmoid_focal_loss

    if weight.numel():
        _refuse('sigmoid_focal_loss_forward with a weight for each class')
    classes = torch.arange(inputs.shape[1], device=target.device)
    marked = (target[:, None] == classes).to(inputs.dtype)
    return sigmoid_focal_loss(inputs, marked, alpha, gamma)
