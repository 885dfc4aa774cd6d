"""Nets in a folder that a model of Hugging Face's transformers was saved to."""

import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..class_names import names_of_labels
from ..errors import describe, start_of
from .named import NamedNet, plain_net

# The files that weights are saved as, the first of which is read.
WEIGHTS = (
    'model.safetensors',
    'model.safetensors.index.json',
    'pytorch_model.bin',
    'pytorch_model.bin.index.json',
)
PROCESSORS = ('preprocessor_config.json', 'processor_config.json')


def of_hugging_face(rest: str, name: str, key: str) -> NamedNet:
    """Return the net of a folder that ``save_pretrained`` has written.

    It is a classifier, also where what was saved has none (DINOv2, CLIP). How images
    are made is measured with the image processor of the folder. Nothing is downloaded,
    and code in the folder is not run.

    Raises:
        FileNotFoundError: there is no such folder, or no config.json in it.
        ImportError: transformers is missing.
        ValueError: the folder needs code of its own, or has another kind of net.
    """
    if find_spec('transformers') is None:
        problem = 'It is a net of Hugging Face, and transformers is not installed.'
        raise ImportError(
            describe(key, name, problem, 'Type: pip install transformers')
        )
    folder = Path(rest).expanduser().resolve()
    config = _config(folder, rest, name, key)
    net = plain_net('HuggingFaceClassifier', model_name=str(folder), num_labels=1000)
    found = NamedNet(name, net, classes=names_of_labels(config.get('id2label')))
    found.backbone = plain_net('HuggingFaceBackbone', model_name=str(folder))
    there = [folder / file for file in WEIGHTS if (folder / file).is_file()]
    if there:
        found.weights = str(there[0])
    if any((folder / file).is_file() for file in PROCESSORS):
        found.preprocessor, found.size = _measured(folder, name, key)
    seen = config.get('vision_config', config)
    size = seen.get('image_size') if isinstance(seen, Mapping) else None
    size = size[-1] if isinstance(size, list) else size
    found.size = size if isinstance(size, int) else found.size
    return found


def _config(folder: Path, rest: str, name: str, key: str) -> dict[str, Any]:
    """Return the folder's config.json, once it is known that its net can be built."""
    file = folder / 'config.json'
    if not file.is_file():
        what = 'no config.json in it' if folder.is_dir() else 'no such folder'
        problem = f'There is {what} (looked from {Path.cwd()}).'
        remedy = 'Write hf:FOLDER, a folder that save_pretrained wrote.'
        if re.fullmatch(r'[\w-][\w.-]*/[\w.-]+', rest):
            place = rest.partition('/')[2]
            remedy += f' Nothing is downloaded here. Type: hf download {rest} '
            remedy += f'--local-dir {place}, and then write hf:{place}.'
        raise FileNotFoundError(describe(key, name, problem, remedy))
    try:
        config = json.loads(file.read_text(encoding='utf-8'))
        kind = config.get('model_type')
    except (ValueError, AttributeError) as error:
        problem = f'Its config.json cannot be read ({start_of(error, 100)}).'
        remedy = 'Save the model there again with save_pretrained.'
        raise ValueError(describe(key, name, problem, remedy)) from error
    if 'auto_map' in config:
        problem = 'Its config.json asks for code of its own (auto_map), and no code '
        problem += 'from a folder is run.'
        remedy = 'Name a model whose class transformers has.'
        raise ValueError(describe(key, name, problem, remedy))
    if kind is None and 'architecture' in config:
        problem = "Its config.json is timm's."
        remedy = f'Write timm:{config["architecture"]}, with the weights as checkpoint.'
        raise ValueError(describe(key, name, problem, remedy))
    from transformers.models.auto import modeling_auto

    known = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    if kind not in known:
        problem = f'transformers has no image classifier of model_type {kind!r}.'
        remedy = f'It has those of {", ".join(sorted(known))}.'
        raise ValueError(describe(key, name, problem, remedy))
    return config


def _measured(folder: Path, name: str, key: str) -> tuple[dict[str, Any], int]:
    """Return what an image processor makes of pixels, and of which size.

    It may rescale, normalise once or twice, and turn the channels. What it does with a
    black, a white and a red image tells all of that.
    """
    from transformers import AutoImageProcessor

    pixels = np.zeros((3, 64, 64, 3), np.uint8)
    pixels[1] = 255
    pixels[2, ..., 0] = 255
    try:
        process = AutoImageProcessor.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
        made = process(images=list(pixels), return_tensors='np')['pixel_values']
        height, width = made.shape[-2:]
        black, white, red = made[:, :, height // 2, width // 2].astype(float)
    except Exception as error:  # a processor of transformers has its own errors
        problem = f'Its image processor does not work ({start_of(error, 200)}).'
        remedy = 'Save it there again with save_pretrained, or move its file away.'
        raise ValueError(describe(key, name, problem, remedy)) from error
    std = 255 / (white - black)
    return dict(
        mean=[round(x, 3) for x in (-black * std).tolist()],
        std=[round(x, 3) for x in std.tolist()],
        to_rgb=bool(red[0] != black[0]),
    ), width
