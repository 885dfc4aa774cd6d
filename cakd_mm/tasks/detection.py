"""Nets that find objects and their boxes: mmdet's."""

from importlib import import_module
from typing import Any

from mmengine.config import Config
from torch import Tensor, nn

from .task import Task, integer_labels


class Detection(Task):
    """Object detection, with or without masks."""

    name = 'detection'
    scope = 'mmdet'
    base = 'mmdet.models.detectors.base.BaseDetector'
    preprocessor = 'DetDataPreprocessor'
    visualizer = 'DetLocalVisualizer'
    is_dense = True
    # Of detectors of one and of two stages, and of DETRs. That of a cascade is a list,
    # whose members score the same classes.
    heads = 'bbox_head', 'roi_head.bbox_head', 'roi_head.bbox_head.0', 'panoptic_head'
    annotations = ('gt_instances',)
    example = "type='RetinaNet' with backbone, neck and bbox_head"

    def labels(self, sample: Any, net: nn.Module) -> Tensor | None:
        """Return the classes of the boxes."""
        if not self.has_label(sample):
            return None
        return integer_labels(sample.gt_instances.get('labels'))

    def load(self, cfg: Config, checkpoint: str) -> nn.Module:
        """Load a net as mmdet does."""
        init: Any = import_module('mmdet.apis').init_detector
        # A palette that is given keeps mmdet from building the set of test images.
        return init(cfg, checkpoint, palette='random', device='cpu')

    def loading(self, config: str, checkpoint: str) -> str:
        """Return the call of mmdet."""
        return f'mmdet.apis.init_detector({config!r}, {checkpoint!r})'

    def score_maps(self, net: nn.Module, output: Any) -> dict[str, Tensor]:
        """Return ``logits0``, ``logits1`` ... of the levels of a head of one stage.

        Such a head gives lists with a map for each level, and its class scores first.
        """
        place = self.count_place(net)
        if place != 'bbox_head' or not isinstance(output, tuple) or len(output) < 2:
            return {}
        levels = output[0]
        are_levels = isinstance(levels, (tuple, list)) and all(
            isinstance(x, Tensor)
            and x.dim() == 4
            and x.shape[1] % self.scored_classes(net, x) == 0
            for x in levels
        )
        return {f'logits{i}': x for i, x in enumerate(levels)} if are_levels else {}

    def scored_classes(self, net: nn.Module, scores: Tensor) -> int:
        """Ask the head, which with a softmax scores the background as well."""
        head = self.head_of(net)
        return getattr(head, 'cls_out_channels', head.num_classes)

    def why_no_score_maps(self, net: nn.Module) -> str:
        """Say what the scores are instead."""
        place = self.count_place(net)
        if place is not None and place.startswith('roi_head'):
            return (
                'Its second stage scores proposals, and those of the teacher are other '
                'ones than those of the student.'
            )
        return (
            'Its scores are none of positions that a layer gives; those of queries '
            'mean another box in each net.'
        )

    def scores_by_sigmoid(self, net: nn.Module) -> bool:
        """Ask the loss of the classes."""
        loss = getattr(self.head_of(net), 'loss_cls', None)
        return bool(getattr(loss, 'use_sigmoid', False))

    def samples_of(self, images: Tensor) -> list:
        """Return a sample for each image, from which second stages read its size."""
        sample: Any = import_module('mmdet.structures').DetDataSample
        size = tuple(images.shape[-2:])
        shapes = dict.fromkeys(
            ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), size
        )
        metas = dict(shapes, scale_factor=(1.0, 1.0))
        return [sample(metainfo=metas) for _ in images]
