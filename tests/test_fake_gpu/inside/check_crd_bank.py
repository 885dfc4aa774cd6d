"""CRD's banks on a GPU: the host waits in the very first step alone."""

import numpy as np
import torch
from fake_gpu import DEVICE, fake_gpu

from cakd_mm.models.losses import CRDBankLoss


def make():
    loss = CRDBankLoss(6, 9, feat_dim=5, negatives=12).to(DEVICE)
    loss.set_dataset(np.arange(40) % 4)
    return loss


def waits_of_a_step(loss, gpu):
    student, teacher = torch.randn(8, 6).to(DEVICE), torch.randn(8, 9).to(DEVICE)
    loss.indices = torch.arange(8)  # on the host, as SampleIndexHook leaves them
    with gpu.listening() as ledger:
        loss(student.requires_grad_(), teacher).backward()
    return len(ledger.waits)


def test_a_run_waits_once():
    with fake_gpu() as gpu:
        loss = make()
        assert [waits_of_a_step(loss, gpu) for _ in range(3)] == [1, 0, 0]


def test_a_resumed_run_never_waits():
    with fake_gpu() as gpu:
        first, resumed = make(), make()
        waits_of_a_step(first, gpu)
        resumed.load_state_dict(first.state_dict())
        log_z = first.log_z.host.clone()
        assert [waits_of_a_step(resumed, gpu) for _ in range(2)] == [0, 0]
        assert torch.equal(resumed.log_z.host, log_z)
