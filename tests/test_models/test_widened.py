import torch

from cakd_mm.models import widened as module
from cakd_mm.models.widened import widened


def test_it_is_float64_or_what_the_device_has(monkeypatch):
    values = torch.tensor([1.0, 0.1], dtype=torch.float16)
    assert widened(values).dtype == torch.float64
    double = torch.tensor(0.1, dtype=torch.float64)
    assert widened(double) is double
    monkeypatch.setattr(module, 'WITHOUT_FLOAT64', {'cpu'})
    assert widened(values).dtype == torch.float32
