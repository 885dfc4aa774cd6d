"""A GPU that is none: it computes on the host, and lists each wait for the device.

Its tensors are of another device, which refuses tensors of the host beside them, as a
GPU does. Whatever makes the host wait until a GPU has finished is written down: a
number that is read, a copy that is not ``non_blocking``, an operation whose result has
a size that depends on values. Values equal those of the host to the last bit, because
the same code computes them. It draws random numbers of its own, and autocast lowers
there what it lowers on CUDA.

PyTorch has room for one such device in a process, and keeps it until the end. Therefore
only processes of their own import this file, after ``cakd_mm``.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from mmengine.device import utils as mmengine_device
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = 'fakegpu'
DEVICE = f'{NAME}:0'
HOST = torch.device('cpu')
aten = torch.ops.aten
# The host needs numbers of the device before it can go on.
READS = {
    aten._local_scalar_dense,
    aten._unique2,
    aten.bincount,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
    aten.unique_consecutive,
    aten.unique_dim,
}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
# They start no kernel, and neither does a view.
ALLOCATIONS = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty}
CONVOLUTIONS = {aten.convolution, aten.convolution_backward}
PRODUCTS = {aten.addmm, aten.baddbmm, aten.bmm, aten.mm}
TF32_BITS = 13  # of float32's mantissa, which TF32 does not have
# Autocast computes these in half precision, and those in float32.
LOWERED = """
    addmm baddbmm bmm conv1d conv2d conv3d einsum linear matmul mm mv
"""
RAISED = """
    cosine_embedding_loss cosine_similarity cross_entropy_loss cumsum exp huber_loss
    kl_div l1_loss log log_softmax.int mse_loss nll_loss norm.Scalar pow.Tensor_Scalar
    prod reciprocal rsqrt smooth_l1_loss softmax.int softplus sum sum.dim_IntList
"""
# Whoever wrote the lines that wait.
PROJECTS = ('cakd_mm', 'mmengine', 'mmpretrain', 'mmrazor', 'torch/optim', 'torch/amp')


@dataclass
class Ledger:
    """What has happened on the device.

    Attributes:
        waits: What each wait was for, and the line of code that has caused it.
        launches: Operations that a GPU starts a kernel or a copy for.
    """

    waits: list[str] = field(default_factory=list)
    launches: list[str] = field(default_factory=list)


@dataclass
class Gpu:
    """The device of this process.

    Attributes:
        ledgers: Those that are open.
        has_float64: Whether it knows such numbers, which Apple's GPUs do not.
        rounds_to_tf32: Whether it rounds factors to TF32 where PyTorch's switches allow
            it, as NVIDIA's recent GPUs do.
        draws_apart: Whether it draws random numbers from a state of its own, as a GPU
            does. From that of the host they are those of a run on the host.
        random_state: That state.
    """

    ledgers: list[Ledger] = field(default_factory=list)
    has_float64: bool = True
    rounds_to_tf32: bool = False
    draws_apart: bool = True
    random_state: Tensor = field(default_factory=torch.get_rng_state)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Draw random numbers from the device's state."""
        of_host = torch.get_rng_state()
        torch.set_rng_state(self.random_state)
        try:
            yield
        finally:
            self.random_state = torch.get_rng_state()
            torch.set_rng_state(of_host)

    @contextmanager
    def listening(self) -> Iterator[Ledger]:
        """List what happens on the device."""
        ledger = Ledger()
        self.ledgers.append(ledger)
        try:
            yield ledger
        finally:
            self.ledgers.remove(ledger)

    def note_wait(self, reason: str) -> None:
        """List a wait."""
        if self.ledgers:
            text = f'{reason}, {_place()}'
            for ledger in self.ledgers:
                ledger.waits.append(text)

    def note_launch(self, function: Any) -> None:
        """List a launch, if the operation is none that only looks at memory."""
        if not self.ledgers:
            return
        returns = function._schema.returns
        is_view = any(x.alias_info and not x.alias_info.is_write for x in returns)
        if not is_view and function.overloadpacket not in ALLOCATIONS:
            for ledger in self.ledgers:
                ledger.launches.append(str(function.overloadpacket))


GPU = Gpu()


class GpuTensor(Tensor):
    """A tensor of the device; ``host`` has its numbers."""

    host: Tensor
    is_cuda = True
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor) -> 'GpuTensor':
        if host.dtype == torch.float64 and not GPU.has_float64:
            raise TypeError(f'{NAME} has no float64')
        # What is made under inference mode could not be viewed outside of it.
        with torch.inference_mode(False):
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                host.shape,
                host.stride(),
                host.storage_offset(),
                dtype=host.dtype,
                device=DEVICE,
            )
        made.host = host
        return made

    def __repr__(self) -> str:
        return f'GpuTensor({self.host})'

    def tolist(self) -> Any:
        """Return the numbers, which PyTorch does for its own class alone."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        # The threads that compute gradients do not know the mode.
        return _run(function, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sends what names the device, but has no tensor of it, there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


def _run(function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    packet = function.overloadpacket
    given: list[Tensor] = []
    _mapped((args, kwargs), given.append)
    ours = [x for x in given if isinstance(x, GpuTensor)]
    target = kwargs.get('device')
    stays = bool(ours) if target is None else torch.device(target).type == NAME
    if not ours and not stays:
        return function(*args, **kwargs)
    _check(packet, args, kwargs, given, stays)
    GPU.note_launch(function)
    if target is not None:
        kwargs = dict(kwargs, device=HOST)
    if GPU.rounds_to_tf32 and _is_in_tf32(packet):
        args = _mapped(args, lambda x: _rounded(_host_of(x)))
    args, kwargs = _mapped(args, _host_of), _mapped(kwargs, _host_of)
    is_random = torch.Tag.nondeterministic_seeded in function.tags
    is_apart = GPU.draws_apart and is_random and not kwargs.get('generator')
    with GPU.drawing() if is_apart else nullcontext():
        found = function(*args, **kwargs)
    if not stays:
        return found
    # What is changed in place stays the same tensor.
    known = {id(x.host): x for x in ours}
    return _mapped(found, lambda x: known[id(x)] if id(x) in known else GpuTensor(x))


def _mapped(data: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return what an operation takes or gives with its tensors changed.

    It is nested in tuples, lists and dicts alone. The walk of PyTorch through any tree
    would take half of the time of the checks.
    """
    if isinstance(data, Tensor):
        return change(data)
    if isinstance(data, (tuple, list)):
        return type(data)(_mapped(value, change) for value in data)
    if isinstance(data, dict):
        return {name: _mapped(value, change) for name, value in data.items()}
    return data


def _host_of(value: Tensor) -> Tensor:
    return value.host if isinstance(value, GpuTensor) else value


def _check(
    packet: Any, args: tuple, kwargs: dict[str, Any], given: list[Tensor], stays: bool
) -> None:
    """List a wait of an operation, or refuse tensors that lie on both sides."""
    on_host = [x for x in given if not isinstance(x, GpuTensor)]
    if packet is aten._to_copy or packet is aten.copy_:
        source = args[-1] if packet is aten._to_copy else args[1]
        from_device = isinstance(source, GpuTensor)
        to_device = stays if packet is aten._to_copy else isinstance(args[0], GpuTensor)
        is_free = kwargs.get('non_blocking') or len(args) > 2 and args[2]
        if from_device and not to_device:
            GPU.note_wait(f'{packet} from the device')
        elif to_device and not from_device and not is_free:
            GPU.note_wait(f'{packet} to the device')
    elif packet in READS:
        GPU.note_wait(str(packet))
    elif packet in INDEXED:
        _check_places(packet, args)
    elif packet is aten.repeat_interleave and kwargs.get('output_size') is None:
        GPU.note_wait(f'{packet} without output_size')
    elif len(on_host) < len(given) and any(x.dim() for x in on_host):
        raise RuntimeError(f'{packet}: tensors of the host and of {NAME} together')


def _check_places(packet: Any, args: tuple) -> None:
    places = [x for x in args[1] if isinstance(x, Tensor)]
    is_mask = any(x.dtype in (torch.bool, torch.uint8) for x in places)
    if not isinstance(args[0], GpuTensor):
        raise RuntimeError(f'{packet}: a tensor of the host, by places on {NAME}')
    if len(args) > 2 and not isinstance(args[2], GpuTensor) and args[2].dim():
        raise RuntimeError(f'{packet}: numbers of the host into {NAME}')
    if is_mask and len(places) == 1 and len(args) > 2 and args[2].numel() == 1:
        return  # CUDA fills under a mask with one number.
    if is_mask:
        GPU.note_wait(f'{packet} by a mask')
    elif not all(isinstance(x, GpuTensor) for x in places):
        GPU.note_wait(f'{packet} by places on the host')


def _place() -> str:
    """Return the innermost line of the projects' code, and of PyTorch's optimisers."""
    for frame in reversed(traceback.extract_stack()):
        for project in PROJECTS:
            start = frame.filename.rfind(f'/{project}/')
            if start >= 0:
                return f'{frame.filename[start + 1 :]}:{frame.lineno}'
    return 'elsewhere'


def _is_in_tf32(packet: Any) -> bool:
    if packet in CONVOLUTIONS:
        return torch.backends.cudnn.allow_tf32
    return packet in PRODUCTS and torch.backends.cuda.matmul.allow_tf32


def _rounded(values: Tensor) -> Tensor:
    """Return float32 numbers rounded to the nearest of TF32."""
    if values.dtype != torch.float32:
        return values
    bits = values.view(torch.int32)
    half = 1 << (TF32_BITS - 1)
    return ((bits + half) >> TF32_BITS << TF32_BITS).view(torch.float32)


class _Module(backend_registration._DummyBackendModule):
    """What PyTorch asks the module of a device's kind."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    @staticmethod
    def get_rng_state(device: Any = None) -> Tensor:
        return GPU.random_state

    @staticmethod
    def set_rng_state(state: Tensor, device: Any = None) -> None:
        GPU.random_state = state

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        GPU.random_state = torch.Generator().manual_seed(seed).get_state()

    manual_seed = manual_seed_all

    @staticmethod
    def synchronize(device: Any = None) -> None:
        GPU.note_wait('synchronize')


def _autocast(name: str, cast: Callable[[Tensor], Tensor]) -> None:
    """Let autocast convert the arguments of an operation."""
    packet, _, overload = name.partition('.')
    function = getattr(getattr(aten, packet), overload or 'default')
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _mapped(args, cast), _mapped(kwargs, cast)
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return function(*args, **kwargs)

    AUTOCAST.impl(name, run, 'AutocastPrivateUse1')


def _lower(value: Tensor) -> Tensor:
    is_float = value.dtype in (torch.float32, torch.float16, torch.bfloat16)
    is_cast = is_float and isinstance(value, GpuTensor)
    return value.to(torch.get_autocast_dtype(NAME)) if is_cast else value


def _raise(value: Tensor) -> Tensor:
    is_half = value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if is_half and isinstance(value, GpuTensor) else value


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    """Make a tensor where PyTorch asks below all modes, as ``torch.tensor`` does."""
    return GpuTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy where PyTorch asks below all modes."""
    if not non_blocking:
        GPU.note_wait('a tensor of numbers of the host')
    _host_of(target).copy_(_host_of(source))
    return target


backend_registration._setup_privateuseone_for_python_backend(
    NAME, backend_module=_Module()
)
KERNELS = torch.library.Library('aten', 'IMPL')
KERNELS.impl('empty_strided', _empty_strided, 'PrivateUse1')
KERNELS.impl('_copy_from', _copy_from, 'PrivateUse1')
EVERYTHING = torch.library.Library('_', 'IMPL')
EVERYTHING.fallback(torch.library.fallthrough_kernel, 'AutocastPrivateUse1')
AUTOCAST = torch.library.Library('aten', 'IMPL')
for _name in LOWERED.split():
    _autocast(_name, _lower)
for _name in RAISED.split():
    _autocast(_name, _raise)
# What is read from a file onto the device stays on the host until somebody moves it.
torch.serialization.register_package(
    0, lambda _: None, lambda storage, name: storage if name.startswith(NAME) else None
)
# mmengine asks once, at its import, which device there is.
mmengine_device.DEVICE = DEVICE
# A parameter stays the same object when its module moves, as on a GPU.
torch.__future__.set_swap_module_params_on_conversion(True)


class _Generator(torch.Generator):
    """One of the device draws on the host, as its operations do."""

    def __new__(cls, device: Any = 'cpu') -> torch.Generator:
        kind = torch.device(device).type
        return GENERATOR.__new__(GENERATOR, 'cpu' if kind == NAME else device)


GENERATOR = torch.Generator


@contextmanager
def fake_gpu(**settings: bool) -> Iterator[Gpu]:
    """Have the device in this thread; ``settings`` are those of :class:`Gpu`."""
    before = {name: getattr(GPU, name) for name in settings}
    vars(GPU).update(settings)
    try:
        with _Mode(), mock.patch.object(torch, 'Generator', _Generator):
            yield GPU
    finally:
        vars(GPU).update(before)
