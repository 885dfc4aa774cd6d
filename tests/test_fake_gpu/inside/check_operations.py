"""Operations that PyTorch refuses on a GPU, or that it would have to compile first."""

import pytest
import torch
from fake_gpu import DEVICE, fake_gpu
from known_nets import NETS
from loss_cases import CASES, SCORERS, Case, scores, value
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.averages import averaged
from cakd_mm.models.losses import HCLLoss
from cakd_mm.utils.repdistiller_weights import ARCHS

# What is an error on CUDA after torch.use_deterministic_algorithms(True), by its
# documentation, as far as PyTorch does not replace it by something else then.
NOT_DETERMINISTIC = """
    _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward _ctc_loss_backward
    _embedding_bag_dense_backward adaptive_max_pool2d_backward avg_pool3d_backward
    fractional_max_pool2d_backward fractional_max_pool3d_backward
    grid_sampler_2d_backward grid_sampler_3d_backward histc kthvalue max_unpool2d
    max_unpool3d median nll_loss2d_forward put put_ reflection_pad1d_backward
    reflection_pad2d_backward reflection_pad3d_backward scatter_reduce
    upsample_bicubic2d_backward upsample_bilinear2d_backward
    upsample_linear1d_backward upsample_trilinear3d_backward
"""
# What NVRTC compiles at the first call (`jitted_gpu_kernel` in PyTorch's sources).
COMPILED_FIRST = """
    digamma erfc erfinv exp2 gcd i0 igamma igammac lcm lgamma polygamma sinc
    special_airy_ai special_bessel_j0 special_bessel_j1 special_entr special_erfcx
    special_i0e special_i1 special_i1e special_log_ndtr special_ndtri
    special_spherical_bessel_j0 special_xlog1py special_zeta
"""
WIDTHS = dict(in_channels=3, out_channels=5)
REFUSED = {*NOT_DETERMINISTIC.split(), *COMPILED_FIRST.split()}


@pytest.fixture(autouse=True)
def _deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def refused_of(run) -> set[str]:
    """Return what a GPU refuses of a forward and a backward pass."""
    with fake_gpu() as gpu, gpu.listening() as ledger:
        run().backward()
    return {name.removeprefix('aten.') for name in ledger.launches} & REFUSED


ROUNDED = pytest.param(
    Case(MODELS.get('CAKDFeatureLoss'), dict(gamma='adaptive', round_ratio=True)),
    id='CAKDFeatureLoss-round_ratio',
)


@pytest.mark.parametrize('case', [*CASES, *SCORERS, ROUNDED])
def test_no_loss_uses_them(case):
    def run():
        loss = case().train().to(DEVICE)
        student, teacher = (x.to(DEVICE) for x in scores(dtype=torch.float32))
        result = value(loss, student.requires_grad_(), teacher)
        return result if loss.auxiliary is None else result + loss.auxiliary

    assert refused_of(run) == set()


@pytest.mark.parametrize('size', [(8, 8), (4, 2), (4, 4), (1, 1), (16, 16)])
@pytest.mark.parametrize('shape', [(2, 3, 8, 8), (2, 3, 7, 14)])
def test_no_map_connector_uses_them(size, shape):
    def run():
        connector = MODELS.build(dict(type='MapConnector', size=size, **WIDTHS))
        maps = torch.randn(shape, device=DEVICE, requires_grad=True)
        return connector.to(DEVICE)(maps).square().sum()

    assert refused_of(run) == set()


def test_no_other_connector_uses_them():
    """Nor the loss that follows, of maps that are large enough to be averaged."""
    widths = dict(in_channels=[3, 4, 5], out_channels=[6, 7, 8])
    fusion = dict(type='FusionConnector', out_sizes=[14, 8, None], **widths)

    def run():
        shapes = (2, 3, 8, 8), (2, 4, 4, 4), (2, 5)
        maps = [torch.randn(x, device=DEVICE, requires_grad=True) for x in shapes]
        fused = MODELS.build(fusion).to(DEVICE)(maps)
        pooled = MODELS.build(dict(type='PooledConnector', **WIDTHS)).to(DEVICE)
        goals = [torch.zeros_like(x) for x in fused]
        return HCLLoss()(fused, goals) + pooled(maps[0]).sum()

    assert refused_of(run) == set()


@pytest.mark.parametrize('side', [2, 3, 8])
def test_no_connector_of_tokens_uses_them(side):
    """Of a grid that is larger, one that is smaller, and one that does not divide."""

    def run():
        tokens = torch.randn(2, 17, 3, device=DEVICE, requires_grad=True)
        maps = torch.randn(2, 3, 4, 4, device=DEVICE, requires_grad=True)
        found = []
        for kind, feature, shape, options in (
            ('MapToTokens', maps, (2, 2 + side**2, 5), dict(teacher_extra_tokens=2)),
            ('Tokens', tokens, (2, 2 + side**2, 5), dict(teacher_extra_tokens=2)),
            ('TokensToMap', tokens, (2, 5, side, side), dict(extra='add')),
            ('TokensToVector', tokens, (2, 5), {}),
        ):
            if feature is tokens:
                options['extra_tokens'] = 1
            fit = MODELS.build(dict(type=f'{kind}Connector', **options, **WIDTHS))
            goal = torch.randn(shape, device=DEVICE)
            found.append((fit.to(DEVICE)(feature, goal) - goal).square().sum())
        return sum(found)

    assert refused_of(run) == set()


@pytest.mark.parametrize('name', sorted(NETS.keys() & ARCHS))
def test_no_net_of_ours_uses_them(name):
    def run():
        net = NETS[name]().train().to(DEVICE)
        return net(torch.randn(2, 3, 32, 32, device=DEVICE), mode='tensor').sum()

    assert refused_of(run) == set()


def test_what_is_looked_for_is_seen():
    maps = torch.randn(1, 1, 5, 5)

    def run():
        there = maps.to(DEVICE).requires_grad_()
        return torch.nn.functional.adaptive_avg_pool2d(there.exp2(), 2).sum()

    assert refused_of(run) == {'exp2', '_adaptive_avg_pool2d_backward'}


@pytest.mark.parametrize('size', [(4, 4), (2, 7), (1, 1), (3, 5)])
def test_averages_are_those_of_the_host(size):
    """Also where windows overlap, and each is averaged by itself."""
    maps = torch.randn(2, 3, 8, 14, dtype=torch.float64)
    here = maps.clone().requires_grad_()
    wanted = torch.nn.functional.adaptive_avg_pool2d(here, size)
    wanted.square().sum().backward()
    with fake_gpu():
        there = maps.to(DEVICE).requires_grad_()
        found = averaged(there, size)
        found.square().sum().backward()
        assert_close(found.cpu(), wanted)
        assert_close(there.grad.cpu(), here.grad)
