"""Nets of Hugging Face's transformers, built from a config without a download."""

import importlib
import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from mmpretrain.models import HuggingFaceClassifier
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ...utils.errors import describe, nearest, start_of
from ..taps.stages import has_class_token
from .plain_net import PlainNet


def _transformers() -> Any:
    """Import transformers, which takes a second, once a config names a net of it."""
    try:
        return importlib.import_module('transformers')
    except ImportError as error:
        text = f'transformers cannot be imported ({start_of(error, 200)}); '
        raise ImportError(f'{text}type pip install -U transformers') from error


def read_config(model_name: str | None, config: dict | None) -> Any:
    """Return the config of a net of transformers, from a folder or from its values.

    Args:
        model_name (str, optional): A folder with a ``config.json``, or a name on the
            hub whose config has been downloaded before.
        config (dict, optional): The values in such a file, with ``model_type``.

    Raises:
        TypeError: not exactly one of the two is given.
        ValueError: there is no such config, or no such kind of net.
    """
    auto = _transformers().AutoConfig
    if (model_name is None) == (config is None):
        problem = 'A net is built from one of model_name and config.'
        remedy = "Write model_name='FOLDER', or config=dict(model_type='vit', ...)."
        raise TypeError(describe('model_name', model_name, problem, remedy))
    if config is None:
        try:
            # A folder may ask for code of its own, which is not run.
            values = auto.from_pretrained(
                os.path.expanduser(str(model_name)),
                local_files_only=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError) as error:
            problem = f'There is no config to read ({start_of(error, 200)}).'
            remedy = 'Name a folder with the config.json of the net. Nothing is '
            remedy += 'downloaded.'
            raise ValueError(
                describe('model_name', model_name, problem, remedy)
            ) from error
        _make_safe(values, 'model_name')
        return values
    values = dict(config)
    kind = values.pop('model_type', None)
    known = importlib.import_module('transformers.models.auto').CONFIG_MAPPING
    if kind not in known:
        problem = 'transformers knows no net of that kind.'
        remedy = f'Like it: {nearest(str(kind), known.keys())}.'
        raise ValueError(describe('config.model_type', kind, problem, remedy))
    _check_names(values, known[kind](), 'config')
    # They name one where a kind has several classifiers. The default is the first.
    made = auto.for_model(kind, **{'architectures': [], **values})
    _make_safe(made, 'config')
    return made


def _make_safe(values: Any, key: str) -> None:
    """Let a config run no code of others, and ask for weights of full precision.

    A type of half precision says how a file was written. mmengine trains and tests in
    another precision by its own settings, which give a net images of full precision.

    Raises:
        ValueError: the net would be given code that transformers downloads.
    """
    for name in ('', *getattr(values, 'sub_configs', {})):
        part = getattr(values, name, None) if name else values
        code = getattr(part, '_attn_implementation', None)
        if '/' in str(code):
            problem = 'transformers would download code and run it.'
            remedy = "Write attn_implementation='sdpa' in the net's config."
            key = f'{key}.{name}'.rstrip('.')
            raise ValueError(
                describe(f'{key}.attn_implementation', code, problem, remedy)
            )
        if part is not None:
            part.dtype = torch.float32


def _check_names(values: Mapping[str, Any], known: Any, key: str) -> None:
    """Refuse a misspelt name, which transformers would keep and not use.

    Names that are like none remain, because published configs have some of others.
    """
    names = [name for name in vars(known) if not name.startswith('_')]
    for name, value in values.items():
        inner = getattr(known, name, None)
        if isinstance(value, Mapping) and hasattr(inner, 'to_dict'):
            _check_names(value, inner, f'{key}.{name}')
        elif not hasattr(known, name) and get_close_matches(name, names, cutoff=0.85):
            problem = f'{type(known).__name__} has no such value.'
            remedy = f'Like it: {nearest(name, names)}.'
            raise ValueError(describe(f'{key}.{name}', value, problem, remedy))


@MODELS.register_module()
class HuggingFaceConfigClassifier(PlainNet, HuggingFaceClassifier):
    """A classifier of transformers that is built without a download.

    :class:`mmpretrain.HuggingFaceClassifier` needs a folder or the hub, this one does
    with the values themselves, so that a config is whole::

        dict(type='HuggingFaceConfigClassifier', num_classes=10,
             config=dict(model_type='vit', hidden_size=192, num_attention_heads=3))

    Args:
        model_name (str, optional): A folder with a ``config.json``.
        config (dict, optional): The values of such a file, in its place.
        num_classes (int, optional): Number of classes. Defaults to None, that of the
            config.
        loss, train_cfg, data_preprocessor, init_cfg: As in
            :class:`mmpretrain.HuggingFaceClassifier`.

    Raises:
        ImportError: transformers is not installed, or broken.
        TypeError, ValueError: the config names no classifier of images.
    """

    def __init__(
        self,
        model_name: str | None = None,
        config: dict | None = None,
        num_classes: int | None = None,
        loss: dict | nn.Module | None = None,
        train_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        values = read_config(model_name, config)
        if num_classes is not None:
            values.num_labels = num_classes
        if not _has_classifier(values):
            problem = 'transformers has no classifier of images of that kind.'
            remedy = "For a net without one, write type='HuggingFaceBackbone'."
            key = 'config.model_type'
            raise ValueError(describe(key, values.model_type, problem, remedy))
        net = _transformers().AutoModelForImageClassification.from_config(values)
        super().__init__(net, loss, train_cfg, data_preprocessor, init_cfg)


@MODELS.register_module()
class HuggingFaceBackbone(PlainNet, HuggingFaceClassifier):
    """A model of images of transformers without a classifier, such as DINOv2.

    It gives one feature for each image, (N, C): what the net itself calls its pooled
    output, otherwise the class token, otherwise the mean. Of a model of images and
    texts, such as CLIP, it is the model of images. Published weights load as they are:
    what they hold for a classifier or for texts is left out::

        teacher=dict(_delete_=True, type='HuggingFaceBackbone', model_name='dinov2/'),
        teacher_ckpt='dinov2/model.safetensors',

    Args:
        model_name (str, optional): A folder with a ``config.json``.
        config (dict, optional): The values of such a file, in its place, with
            ``model_type``.
        data_preprocessor, init_cfg: As in :class:`mmpretrain.HuggingFaceClassifier`.

    Raises:
        ImportError: transformers is not installed, or broken.
        TypeError, ValueError: the config names no net of transformers.
    """

    is_backbone = True

    def __init__(
        self,
        model_name: str | None = None,
        config: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        values = read_config(model_name, config)
        values = getattr(values, 'vision_config', values)
        if _has_classifier(values):
            # It knows whether the net is trained with a layer that pools.
            whole = _transformers().AutoModelForImageClassification
            net = whole.from_config(values).base_model
        else:
            net = _transformers().AutoModel.from_config(values)
        # Hiera's embeddings can hide patches, too, and say whether they do.
        if any(
            hasattr(module, 'random_masking') and getattr(module, 'is_mae', True)
            for module in net.modules()
        ):
            problem = f'{type(net).__name__} hides patches of an image by chance, and '
            problem += 'mixes up the others.'
            remedy = "Make a ViT of it: transformers.ViTModel.from_pretrained('FOLDER')"
            remedy += ".save_pretrained('OTHER'), and name that folder."
            key = 'config.model_type'
            raise ValueError(describe(key, values.model_type, problem, remedy))
        if net.main_input_name != 'pixel_values':
            problem = f'{type(net).__name__} takes no images.'
            key, remedy = 'config.model_type', "Write 'dinov2', 'vit' or 'clip', say."
            raise ValueError(describe(key, values.model_type, problem, remedy))
        super().__init__(net, None, None, data_preprocessor, init_cfg)

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> Tensor:
        """Return the features of images (N, 3, H, W) as (N, C).

        Raises:
            ValueError: ``mode`` is not ``'tensor'``, because there are no scores.
        """
        if mode != 'tensor':
            problem = 'A HuggingFaceBackbone has no classifier, so it gives no scores.'
            remedy = "Write type='HuggingFaceConfigClassifier', say."
            raise ValueError(describe('mode', mode, problem, remedy))
        output = self.model(pixel_values=inputs)
        pooled = getattr(output, 'pooler_output', None)
        if pooled is not None:
            return pooled.flatten(1)
        last = output.last_hidden_state
        if last.dim() == 4:
            return last.mean((2, 3))
        return last[:, 0] if has_class_token(self.model) else last.mean(1)

    def extract_feat(self, inputs: Tensor) -> Any:
        """Return all that the net gives, ``last_hidden_state`` and others."""
        return self.model(pixel_values=inputs)


def _has_classifier(values: Any) -> bool:
    known = _transformers().MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    return type(values) in known
