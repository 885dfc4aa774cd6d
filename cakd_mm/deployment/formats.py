"""The kinds of files that a student is exported to."""

import importlib.util
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..compat import as_onnx, as_program, quiet_export
from ..utils.errors import describe

# What the entries of the files are called.
INPUT, BATCH, METADATA = 'images', 'batch', 'metadata.json'
# Protocol buffers, of which ONNX is one, hold no more.
MOST_BYTES = 2**31 - 2**20


class Source:
    """A net that is exported, traced once for all formats.

    Args:
        net (nn.Module): From ``images``, (N, C, H, W), to scores, (N, K).
        images (Tensor): An example of its input.
        is_fixed (bool): Whether files take as many images as the example has, and no
            other number.
        output (str): The name of the scores.
        opset (int, optional): The version of ONNX's operators. Defaults to None, that
            of the exporter.
    """

    def __init__(
        self,
        net: nn.Module,
        images: Tensor,
        is_fixed: bool,
        output: str,
        opset: int | None = None,
    ) -> None:
        self.net = net
        self.images = images
        self.is_fixed = is_fixed
        self.output = output
        self.opset = opset
        self._program: Any = None

    def program(self) -> Any:
        """Return the ``ExportedProgram``; raise torch's error if there is none."""
        if self._program is None:
            self._program = as_program(
                self.net, self.images, None if self.is_fixed else BATCH
            )
        return self._program


class Format(ABC):
    """A kind of file."""

    suffix: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()

    def require(self) -> None:
        """Raise ModuleNotFoundError, which says what to install, if it cannot be."""
        missing = [x for x in self.packages if importlib.util.find_spec(x) is None]
        if missing:
            name = self.suffix[1:]
            problem = f'{", ".join(missing)} not installed.'
            remedy = f'Type pip install {" ".join(missing)}, or leave {name} out: '
            remedy += '--format pt2.'
            raise ModuleNotFoundError(describe('--format', name, problem, remedy))

    @abstractmethod
    def content(self, source: Source, metadata: Mapping[str, Any]) -> bytes:
        """Return the whole file.

        Args:
            source (Source): What it computes.
            metadata (dict): What it says about itself.
        """

    @abstractmethod
    def loaded(self, content: bytes) -> Callable[[Tensor], Tensor]:
        """Return what a file computes, from images to scores."""

    @abstractmethod
    def snippet(self, path: str, output: str) -> list[str]:
        """Return lines of Python that use a file."""


class Onnx(Format):
    """ONNX; each entry of the metadata is text in JSON."""

    suffix = '.onnx'
    packages = 'onnx', 'onnxruntime', 'onnxscript'

    def content(self, source: Source, metadata: Mapping[str, Any]) -> bytes:
        """Return a ``ModelProto`` with its weights."""
        weights = source.net.state_dict().values()
        size = sum(x.numel() * x.element_size() for x in weights)
        if size > MOST_BYTES:
            problem = f'The net has {size / 2**30:.1f} GiB, and one file of ONNX at '
            problem += 'most 2.'
            raise ValueError(
                describe('--format', 'onnx', problem, 'Give --format pt2.')
            )
        model = as_onnx(
            source.net,
            source.images,
            source.program,
            names=(INPUT, source.output),
            batch=None if source.is_fixed else BATCH,
            opset=source.opset,
        )
        found = {x.domain: x.version for x in model.opset_import}['']
        if source.opset not in (None, found):
            problem = f'torch writes this net with opset {found}.'
            remedy = f'Give --opset {found}, or leave it out.'
            raise ValueError(describe('--opset', source.opset, problem, remedy))
        for name, value in metadata.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = name, json.dumps(value, ensure_ascii=False)
        return model.SerializeToString()

    def loaded(self, content: bytes) -> Callable[[Tensor], Tensor]:
        """Return what onnxruntime computes, on as many threads as torch has."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        session = onnxruntime.InferenceSession(
            content, options, providers=['CPUExecutionProvider']
        )

        def scores(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])

        return scores

    def snippet(self, path: str, output: str) -> list[str]:
        """Return how onnxruntime is called."""
        return [
            'import onnxruntime',
            f'session = onnxruntime.InferenceSession({path!r})',
            f'({output},) = session.run(None, {{{INPUT!r}: images}})',
        ]


class Pt2(Format):
    """``torch.export``; the metadata is its extra file ``metadata.json``."""

    suffix = '.pt2'

    def content(self, source: Source, metadata: Mapping[str, Any]) -> bytes:
        """Return an ``ExportedProgram`` with its weights."""
        file = io.BytesIO()
        extra = {METADATA: json.dumps(metadata, ensure_ascii=False)}
        program = source.program()
        with quiet_export():
            torch.export.save(program, file, extra_files=extra)
        return file.getvalue()

    def loaded(self, content: bytes) -> Callable[[Tensor], Tensor]:
        """Return what the program computes."""
        with quiet_export():
            return torch.export.load(io.BytesIO(content)).module()

    def snippet(self, path: str, output: str) -> list[str]:
        """Return how torch is called."""
        return [
            'import torch',
            f'net = torch.export.load({path!r}).module()',
            f'{output} = net(torch.as_tensor(images))',
        ]


FORMATS: dict[str, Format] = {'onnx': Onnx(), 'pt2': Pt2()}
