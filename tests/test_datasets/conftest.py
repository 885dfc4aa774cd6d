"""Fixtures for datasets."""

import pytest


@pytest.fixture(autouse=True)
def caches(tmp_path_factory, monkeypatch):
    """Keep what datasets cache out of the user's home, and say where it is."""
    folder = tmp_path_factory.mktemp('caches')
    monkeypatch.setenv('XDG_CACHE_HOME', str(folder))
    return folder / 'cakd_mm'
