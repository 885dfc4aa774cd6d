"""A guard against reading values from the device."""

from contextlib import contextmanager

import pytest
import torch

READS = (
    *('item', 'tolist', 'numpy', 'cpu', 'nonzero', 'unique'),
    *('__float__', '__bool__', '__int__', '__index__', '__array__'),
)


class ReadError(Exception):
    """A value was brought from the device."""


@contextmanager
def no_reading():
    """Raise where Python would wait for a tensor's value."""

    def refuse(name):
        def read(self, *args, **kwargs):
            raise ReadError(name)

        return read

    with pytest.MonkeyPatch.context() as patch:
        for name in READS:
            patch.setattr(torch.Tensor, name, refuse(name), raising=False)
        yield
