"""Fixtures of the pictures' tests."""

import pytest
from tiny_runs import train


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    """The work dir of a run of two epochs of three steps with a scoring network."""
    return train(tmp_path_factory.mktemp('trained'))
