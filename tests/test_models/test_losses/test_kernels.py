"""The kernels that Inductor makes of compiled losses for a GPU that is not there.

Inductor only asks a GPU for its size, and Triton whether it works. Both answers are
given here, and the compilation ends before Triton would have to run.
"""

import pytest
from mmrazor.registry import MODELS
from torch._subclasses import FakeTensorMode

from cakd_mm.utils import compiling


@pytest.fixture
def kernels(monkeypatch):
    """Return how many kernels a compiled loss of some rows and classes is."""
    pytest.importorskip('triton', reason='Inductor needs Triton for the code of a GPU')
    import torch._inductor.config
    import torch._inductor.scheduler
    from torch._inductor.graph import GraphLowering
    from torch._inductor.runtime.hints import DeviceProperties

    if 'warp_size' not in DeviceProperties._fields:
        pytest.skip('Inductor of this PyTorch has other inner parts')
    card = DeviceProperties('cuda', 0, 132, 90, 9, 65536, 2048, 1024, 32)
    # Inductor would compute constants on the GPU.
    without_constants = torch._inductor.config.patch(joint_graph_constant_folding=False)
    counts = []

    def count(graph):
        graph._update_scheduler()
        counts.append(len(graph.scheduler.nodes))
        raise RuntimeError('nothing can be compiled for a GPU that is not there')

    monkeypatch.setattr(DeviceProperties, 'create', lambda device: card)
    monkeypatch.setattr(torch._inductor.scheduler, 'has_triton', lambda: True)
    monkeypatch.setattr(GraphLowering, 'compile_to_module', count)
    monkeypatch.setattr(compiling, 'print_log', lambda *_: None)
    torch._dynamo.reset()

    def run(kind: str, rows: int, classes: int) -> int:
        with FakeTensorMode(), torch.device('cuda'), without_constants:
            loss = MODELS.build(dict(type=kind, compile=True)).eval()
            student, teacher = torch.empty(2, rows, classes).unbind()
            labels = torch.empty(rows, dtype=torch.int64)
            loss(student.requires_grad_(), teacher, labels)
        (number,) = counts
        return number

    yield run
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ('kind', 'size'),
    [
        ('CAKDLogitLoss', (64, 100)),
        ('CAKDFeatureLoss', (128, 256)),
    ],
)
def test_value_and_gradient_are_two_kernels(kernels, kind, size):
    """One for the rows of both nets, their gradient too, and one for the sum of all."""
    assert kernels(kind, *size) == 2
