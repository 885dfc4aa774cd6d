"""Nets that score the classes of a whole image: mmpretrain's, and ours."""

from typing import Any

from mmengine.config import Config
from mmengine.structures import BaseDataElement
from mmpretrain import get_model
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from .task import Task, integer_labels


class Classification(Task):
    """Image classification, the task of all nets that have no other one."""

    name = 'classification'
    scope = 'mmpretrain'
    base = 'mmpretrain.models.classifiers.base.BaseClassifier'
    preprocessor = 'BatchPreprocessor'
    visualizer = 'UniversalVisualizer'
    heads = ('head',)
    annotations = 'gt_label', 'gt_score'
    example = "type='ImageClassifier' with backbone, neck and head"

    def count_place(self, net: nn.Module) -> str | None:
        """Return the head; a net without one has its classes counted by its layers."""
        return None if getattr(net, 'head', None) is None else 'head'

    def has_label(self, sample: Any) -> bool:
        """Tell whether a sample has a label; those of unknown kinds are said to."""
        if isinstance(sample, DataSample):
            return super().has_label(sample)
        return sample is not None

    def labels(self, sample: Any, net: nn.Module) -> Tensor | None:
        """Return ``gt_label``."""
        if not isinstance(sample, BaseDataElement):
            return None
        return integer_labels(sample.get('gt_label'))

    def image_shape(self, cfg: Config) -> tuple[int, int, int]:
        """Return the shape of the images of the test pipeline, or what the net says."""
        backbone = cfg.model.get('backbone', {})
        # timm's arguments, or torchvision's, and those of a config of Hugging Face
        others = {**cfg.model, **(cfg.model.get('config') or {})}
        own = others.get('img_size') or others.get('image_size') or 224
        loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
        dataset = loader.get('dataset', {})
        sizes = [dataset.get('size') or own]  # DecodedImages resizes with `size`
        for step in dataset.get('pipeline', []):
            sizes += [step[key] for key in ('scale', 'crop_size') if key in step]
        size = backbone.get('img_size', sizes[-1])
        height, width = (size, size) if isinstance(size, int) else size
        channels = others.get('in_chans') or others.get('num_channels') or 3
        return backbone.get('in_channels', channels), height, width

    def put_preprocessor(self, plain: dict, preprocessor: dict) -> None:
        """Put it beside the model, where mmpretrain gives it a type of its own."""
        plain['data_preprocessor'] = preprocessor

    def load(self, cfg: Config, checkpoint: str) -> nn.Module:
        """Load a net as mmpretrain does."""
        return get_model(cfg, pretrained=checkpoint)

    def loading(self, config: str, checkpoint: str) -> str:
        """Return the call of mmpretrain."""
        return f'mmpretrain.get_model({config!r}, pretrained={checkpoint!r})'
