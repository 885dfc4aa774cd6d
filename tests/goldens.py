"""Reference numbers of other implementations, kept beside the checkout.

``index.json`` names every file with its hyper-parameters and tolerances; how
they were made is in ``../methods.md`` of the same folder.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

SHARED = Path(os.environ.get('CAKD_SHARED', Path(__file__).parents[2] / 'shared'))
FOLDER = SHARED / 'spec' / 'goldens'
ABSENT = pytest.mark.skip(reason=f'no reference numbers: {FOLDER} (CAKD_SHARED)')


def cases(*losses: str, group: str = 'logits') -> list:
    """Return a pytest parameter per entry of the index that is of ``losses``."""
    if not FOLDER.is_dir():
        return [pytest.param(None, id='absent', marks=ABSENT)]
    entries = json.loads((FOLDER / 'index.json').read_text())['entries']
    found = [e for e in entries if e['loss'] in losses and e['group'] == group]
    assert {entry['loss'] for entry in found} == set(losses), 'index.json lacks some'
    return [pytest.param(entry, id=Path(entry['file']).stem) for entry in found]


def load(entry: dict) -> dict[str, torch.Tensor]:
    """Return the arrays of an entry; a file that the index names must be there."""
    with np.load(FOLDER / entry['file']) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def assert_matches(entry: dict, loss: torch.Tensor, grad: torch.Tensor) -> None:
    """Compare a loss and its gradient with the entry's, to its tolerance."""
    tolerance = entry['tolerance'][str(grad.dtype).removeprefix('torch.')]
    golden = load(entry)
    torch.testing.assert_close(
        loss.double(), golden['loss'], rtol=tolerance['loss_rtol'], atol=0.0
    )
    expected = golden['grad_student'].double().reshape(grad.shape)
    atol = tolerance['grad_rtol_of_max'] * expected.abs().max().item()
    torch.testing.assert_close(grad.double(), expected, rtol=0.0, atol=atol)
