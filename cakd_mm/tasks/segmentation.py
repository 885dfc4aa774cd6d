"""Nets that score the class of each pixel: mmseg's."""

from importlib import import_module
from operator import attrgetter
from typing import Any

from mmengine.config import Config
from torch import Tensor, nn

from .task import Task, fixed_size, integer_labels

HEADS = 'decode_head', 'decode_head.0'
# Of images on which a segmentor is tried.
SIZE = 128


class Segmentation(Task):
    """Semantic segmentation."""

    name = 'segmentation'
    scope = 'mmseg'
    base = 'mmseg.models.segmentors.base.BaseSegmentor'
    preprocessor = 'SegDataPreProcessor'
    visualizer = 'SegLocalVisualizer'
    is_dense = True
    annotations = ('gt_sem_seg',)
    # mmseg's own preprocessor pads to that size.
    resizes_for_teacher = False
    example = "type='EncoderDecoder' with backbone and decode_head"

    def count_place(self, net: nn.Module) -> str | None:
        """Return the head that is used for predictions; of a cascade, its first."""
        parts = dict(net.named_modules())
        found = (x for x in HEADS if hasattr(parts.get(x), 'num_classes'))
        return next(found, None)

    def labels(self, sample: Any, net: nn.Module) -> Tensor | None:
        """Return the classes of the pixels that the net does not ignore."""
        place = self.count_place(net)
        if place is None or not self.has_label(sample):
            return None
        labels = integer_labels(sample.gt_sem_seg.get('data'))
        ignored = getattr(attrgetter(place)(net), 'ignore_index', 255)
        return None if labels is None else labels[labels != ignored]

    def image_shape(self, cfg: Config) -> tuple[int, int, int]:
        """Return a small shape, because segmentors take images of any size."""
        backbone = cfg.model.get('backbone') or {}
        return backbone.get('in_channels', 3), *fixed_size(backbone, SIZE)

    def load(self, cfg: Config, checkpoint: str) -> nn.Module:
        """Load a net as mmseg does."""
        init: Any = import_module('mmseg.apis').init_model
        return init(cfg, checkpoint, device='cpu')

    def loading(self, config: str, checkpoint: str) -> str:
        """Return the call of mmseg."""
        return f'mmseg.apis.init_model({config!r}, {checkpoint!r})'

    def scores_by_sigmoid(self, net: nn.Module) -> bool:
        """Ask the losses of the head that is used for predictions."""
        place = self.count_place(net)
        loss: Any = (
            getattr(attrgetter(place)(net), 'loss_decode', None) if place else None
        )
        losses = loss if isinstance(loss, nn.ModuleList) else [loss]
        return any(getattr(one, 'use_sigmoid', False) for one in losses)

    def score_maps(self, net: nn.Module, output: Any) -> dict[str, Tensor]:
        """Return ``logits`` of the head; of its maps it predicts by the first."""
        scores = output[0] if isinstance(output, (tuple, list)) else output
        is_map = isinstance(scores, Tensor) and scores.dim() == 4
        return dict(logits=scores) if is_map else {}

    def why_no_score_maps(self, net: nn.Module) -> str:
        """Say what the scores are instead."""
        return 'The scores of its head are no map that a layer gives.'
