"""Nets that find objects and their boxes: mmdet's."""

from importlib import import_module
from typing import Any

from mmengine.config import Config
from torch import Tensor, nn

from .task import Task, fixed_size, integer_labels

# Where detectors of one and of two stages, and DETRs, have what scores classes. That of
# a cascade is a list, whose members score the same classes.
HEADS = 'bbox_head', 'roi_head.bbox_head', 'roi_head.bbox_head.0', 'panoptic_head'
# Of images on which a detector is tried. Its coarsest level then has one position.
SIZE = 128


class Detection(Task):
    """Object detection, with or without masks."""

    name = 'detection'
    scope = 'mmdet'
    base = 'mmdet.models.detectors.base.BaseDetector'
    preprocessor = 'DetDataPreprocessor'
    visualizer = 'DetLocalVisualizer'
    annotations = ('gt_instances',)
    example = "type='RetinaNet' with backbone, neck and bbox_head"

    def count_place(self, net: nn.Module) -> str | None:
        """Return the first head that scores classes of objects."""
        parts = dict(net.named_modules())
        found = (x for x in HEADS if hasattr(parts.get(x), 'num_classes'))
        return next(found, None)

    def labels(self, sample: Any, net: nn.Module) -> Tensor | None:
        """Return the classes of the boxes."""
        if not self.has_label(sample):
            return None
        return integer_labels(sample.gt_instances.get('labels'))

    def image_shape(self, cfg: Config) -> tuple[int, int, int]:
        """Return a small shape, because detectors take images of any size."""
        backbone = cfg.model.get('backbone') or {}
        return backbone.get('in_channels', 3), *fixed_size(backbone, SIZE)

    def load(self, cfg: Config, checkpoint: str) -> nn.Module:
        """Load a net as mmdet does."""
        init: Any = import_module('mmdet.apis').init_detector
        # A palette that is given keeps mmdet from building the set of test images.
        return init(cfg, checkpoint, palette='random', device='cpu')

    def loading(self, config: str, checkpoint: str) -> str:
        """Return the call of mmdet."""
        return f'mmdet.apis.init_detector({config!r}, {checkpoint!r})'

    def samples_of(self, images: Tensor) -> list:
        """Return a sample for each image, from which second stages read its size."""
        sample: Any = import_module('mmdet.structures').DetDataSample
        size = tuple(images.shape[-2:])
        shapes = dict.fromkeys(
            ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), size
        )
        metas = dict(shapes, scale_factor=(1.0, 1.0))
        return [sample(metainfo=metas) for _ in images]
