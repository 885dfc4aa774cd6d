"""Stand-ins for the compiled operations of mmcv, where mmcv was built without them.

mmdet imports the module that holds them before it builds any model, and most models
need a few of them alone. These are computed by PyTorch, torchvision and mmcv itself.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

# What of mmdet 3.5 and mmseg 1.4 needs an operation, by the beginning of its name.
NEEDED_BY = {
    'softnms': 'test_cfg.nms.type="soft_nms", CornerNet and CentripetalNet',
    'nms_match': 'ScoreHLRSampler of PISA',
    'nms_rotated': 'rotated boxes',
    'nms_quadri': 'boxes of four corners',
    'line_nms': 'CLRNet',
    'modulated_deform_conv': 'dcn=dict(type="DCNv2"), DyHead, CenterNet with use_dcn, '
    'dcn_on_last_conv, NAS-FCOS and GLIP',
    'deform_conv': 'dcn=dict(type="DCN"), conv_cfg=dict(type="SAC") of DetectoRS, '
    'RepPoints, VFNet, TOOD, DDOD, FoveaBox with with_deform, Cascade RPN, Guided '
    'Anchoring and CentripetalNet',
    'deform_roi_pool': 'DeformRoIPoolPack and ModulatedDeformRoIPoolPack',
    'roi_align_forward with': 'roi_layer.pool_mode="max"',
    'roi_pool': 'roi_layer.type="RoIPool" (RoIAlign does without)',
    'carafe': 'FPN_CARAFE and upsample_cfg.type="carafe"',
    'masked_': 'Guided Anchoring',
    'psa': 'PSANet',
    'sync_bn': 'norm_cfg.type="MMSyncBN" ("SyncBN" does without)',
}
# Files of mmcv.ops whose layers work here, wholly or for the usual settings.
SERVED = ('focal_loss', 'multi_scale_deform_attn', 'nms', 'roi_align')


class MissingOperationError(ImportError):
    """An operation that mmcv lacks here is needed."""


class PlainOperations(ModuleType):
    """The module ``mmcv._ext`` of an mmcv that was built without it.

    ``nms`` and RoIAlign are torchvision's, which gives the same to rounding. The focal
    loss of sigmoids is PyTorch's arithmetic, and the attention of Deformable DETR is
    what mmcv computes on a CPU. Every other operation exists by name, because mmcv
    looks for all of them when it is imported, and raises when it is called.
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
        self.ms_deform_attn_forward = ms_deform_attn_forward
        self.ms_deform_attn_backward = ms_deform_attn_backward
        # A report of the environment has these two, and is no use of operations.
        self.get_compiler_version = self.get_compiling_cuda_version = _no_compiler

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        return partial(_refuse, name)


def _no_compiler() -> str:
    return 'n/a'


@contextmanager
def refusing_layers(operations: ModuleType) -> Iterator[None]:
    """Let layers that can compute nothing here be refused when a model is built.

    Otherwise a model would be built, and end in its first step.

    Args:
        operations (ModuleType): ``mmcv.ops``, which is imported within.
    """
    yield
    for layer in vars(operations).values():
        if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
            continue
        # A function of a file's name hides the file among the names of the package.
        file = sys.modules[layer.__module__]
        name = file.__name__.rpartition('.')[2]
        if hasattr(file, 'ext_module') and name not in SERVED:
            kind: Any = layer
            kind.__init__ = _refusing(kind.__init__, name)


def _refusing(genuine: Callable, name: str) -> Callable:
    """Return a maker of a layer with the signature of the genuine one."""

    @functools.wraps(genuine)
    def refuse(*_: Any, **__: Any) -> NoReturn:
        _refuse(name)

    return refuse


def _refuse(name: str, *_: Any, **__: Any) -> NoReturn:
    """Say which operation is missing, and what needs it."""
    users = next((x for start, x in NEEDED_BY.items() if name.startswith(start)), None)
    needed = f' It serves {users}.' if users else ''
    raise MissingOperationError(
        f'mmcv was installed without compiled operations, and {name} is one of '
        f'them.{needed} Remedy: a model without it, or an mmcv that was built with '
        'operations for this PyTorch (MMCV_WITH_OPS=1 pip install --no-build-isolation '
        '--no-binary onedl-mmcv onedl-mmcv).'
    )


def _at_least_single(tensor: Tensor) -> Tensor:
    """Return float32 for half precision, which torchvision takes in some places."""
    return tensor.float() if tensor.dtype in (torch.half, torch.bfloat16) else tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the places of the boxes that stay, those of the highest scores first.

    Args:
        boxes (Tensor): x1, y1, x2, y2 of each, (N, 4).
        scores (Tensor): (N,). Of equal ones the first box is taken for the better one.
        iou_threshold (float): A box goes that overlaps a better one by more.
        offset (int): What a box is wider and higher than its corners say, 0 or 1.
    """
    from torchvision.ops import nms as keep

    # torchvision wants one type. The more precise one keeps the order of the scores.
    kind = torch.promote_types(boxes.dtype, scores.dtype)
    boxes, scores = (_at_least_single(x.to(kind)) for x in (boxes, scores))
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return keep(boxes, scores, iou_threshold)


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
    """Write the pooled regions, (R, C, height, width), into ``output``.

    Args:
        inputs (Tensor): Maps, (N, C, H, W).
        rois (Tensor): The place of the map, x1, y1, x2, y2 of each region, (R, 5).
        output (Tensor): Is written.
        argmax_y (Tensor): Unused, as ``argmax_x``.
        argmax_x (Tensor): Places of maxima.
        aligned_height (int): Of the output.
        aligned_width (int): Of the output.
        spatial_scale (float): What coordinates of regions are multiplied by.
        sampling_ratio (int): Points for a place of the output along each axis. 0 takes
            as many as there are pixels.
        pool_mode (int): 1, the mean of these points. Others are refused.
        aligned (bool): Whether pixels are centred on halves.

    Raises:
        MissingOperationError: maxima are asked for.
    """
    from torchvision.ops import roi_align

    if not pool_mode:
        _refuse('roi_align_forward with pool_mode="max"')
    maps, size = _at_least_single(inputs), (aligned_height, aligned_width)
    boxes = rois.to(maps.dtype)
    output.copy_(roi_align(maps, boxes, size, spatial_scale, sampling_ratio, aligned))


def roi_align_backward(
    gradient: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    output: Tensor,
    **options: Any,
) -> None:
    """Write the gradient by the maps, (N, C, H, W), into ``output``.

    Args:
        gradient (Tensor): By the pooled regions, (R, C, height, width).
        rois (Tensor): As of :func:`roi_align_forward`, and so are the others.
        argmax_y (Tensor): Unused.
        argmax_x (Tensor): Unused.
        output (Tensor): Is written.
        options: Numbers of :func:`roi_align_forward`.
    """

    def pool(maps: Tensor) -> Tensor:
        pooled = torch.zeros_like(gradient)
        roi_align_forward(maps, rois, pooled, argmax_y, argmax_x, **options)
        return pooled

    # The pooling is linear in the maps, so that any map has the same gradient.
    _write_gradients(pool, [torch.zeros_like(output)], gradient, [output])


def _write_gradients(
    function: Callable[..., Tensor],
    inputs: list[Tensor],
    gradient: Tensor,
    outputs: list[Tensor],
) -> None:
    """Write into ``outputs`` what ``gradient`` of a function gives for its inputs."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        result = function(*leaves)
    for output, found in zip(
        outputs, torch.autograd.grad(result, leaves, gradient), strict=True
    ):
        output.copy_(found)


def sigmoid_focal_loss_forward(
    inputs: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    r"""Write the focal loss of every class, (N, K), into ``output``.

    .. math::
        -\alpha (1 - p)^\gamma \log p \quad\text{of the target},\qquad
        -(1 - \alpha) p^\gamma \log(1 - p) \quad\text{of others},
        \quad p = \operatorname{sigmoid}(x)

    Args:
        inputs (Tensor): The :math:`x` of classes, (N, K).
        target (Tensor): Classes, (N,), of 0 to K; K is none of them.
        weight (Tensor): Of each class, which has to be empty.
        output (Tensor): Is written.
        gamma (float): :math:`\gamma`.
        alpha (float): :math:`\alpha`.

    Raises:
        MissingOperationError: classes have weights.
    """
    output.copy_(_sigmoid_focal_loss(inputs, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    inputs: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the gradient of the sum of the losses, (N, K), into ``output``.

    The arguments are those of :func:`sigmoid_focal_loss_forward`.
    """

    def total(scores: Tensor) -> Tensor:
        return _sigmoid_focal_loss(scores, target, weight, gamma, alpha).sum()

    one = torch.ones((), device=inputs.device, dtype=_at_least_single(inputs).dtype)
    _write_gradients(total, [inputs], one, [output])


def _sigmoid_focal_loss(
    inputs: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float
) -> Tensor:
    if weight.numel():
        _refuse('sigmoid_focal_loss_forward with a weight for each class')
    scores = _at_least_single(inputs)
    is_target = target[:, None] == torch.arange(scores.shape[1], device=target.device)
    # The probability of what is right is that of `signed`. Its powers are taken by
    # logarithms, because the gradient of a power of 0 may be infinite.
    signed = torch.where(is_target, scores, -scores)
    factor = torch.where(is_target, alpha, 1 - alpha).to(scores.dtype)
    return -factor * (gamma * logsigmoid(-signed)).exp() * logsigmoid(signed)


def ms_deform_attn_forward(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    locations: Tensor,
    weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Return what is seen at points of a pyramid, (N, Q, heads * D).

    Args:
        value (Tensor): Features of all places, (N, places, heads, D).
        shapes (Tensor): Height and width of each level, (L, 2).
        starts (Tensor): Unused: where a level begins.
        locations (Tensor): x and y of points in parts of a level's size,
            (N, Q, heads, L, P, 2).
        weights (Tensor): Of each point, (N, Q, heads, L, P).
        im2col_step (int): Unused: how many images are computed at once.
    """
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)


def ms_deform_attn_backward(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    locations: Tensor,
    weights: Tensor,
    gradient: Tensor,
    *outputs: Tensor,
    im2col_step: int,
) -> None:
    """Write gradients by values, locations and weights into ``outputs``.

    The other arguments are those of :func:`ms_deform_attn_forward`, and ``gradient`` is
    that by its result.
    """

    def see(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn_forward(
            value, shapes, starts, locations, weights, im2col_step
        )

    _write_gradients(see, [value, locations, weights], gradient, list(outputs))
