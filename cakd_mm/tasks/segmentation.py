"""Nets that score the class of each pixel: mmseg's."""

from importlib import import_module
from typing import Any

from mmengine.config import Config
from torch import Tensor, nn

from .task import Task, integer_labels


class Segmentation(Task):
    """Semantic segmentation."""

    name = 'segmentation'
    scope = 'mmseg'
    base = 'mmseg.models.segmentors.base.BaseSegmentor'
    preprocessor = 'SegDataPreProcessor'
    visualizer = 'SegLocalVisualizer'
    is_dense = True
    # Of a cascade it is the first.
    heads = 'decode_head', 'decode_head.0'
    annotations = ('gt_sem_seg',)
    # mmseg's own preprocessor pads to that size.
    resizes_for_teacher = False
    example = "type='EncoderDecoder' with backbone and decode_head"

    def labels(self, sample: Any, net: nn.Module) -> Tensor | None:
        """Return the classes of the pixels that the net does not ignore."""
        head = self.head_of(net)
        if head is None or not self.has_label(sample):
            return None
        labels = integer_labels(sample.gt_sem_seg.get('data'))
        ignored = getattr(head, 'ignore_index', 255)
        return None if labels is None else labels[labels != ignored]

    def load(self, cfg: Config, checkpoint: str) -> nn.Module:
        """Load a net as mmseg does."""
        init: Any = import_module('mmseg.apis').init_model
        return init(cfg, checkpoint, device='cpu')

    def loading(self, config: str, checkpoint: str) -> str:
        """Return the call of mmseg."""
        return f'mmseg.apis.init_model({config!r}, {checkpoint!r})'

    def scores_by_sigmoid(self, net: nn.Module) -> bool:
        """Ask the losses of the head that is used for predictions."""
        loss: Any = getattr(self.head_of(net), 'loss_decode', None)
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
