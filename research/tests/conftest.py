"""Fixtures of these tests."""

from fresh_globals import _fresh_globals, _plain_layout  # noqa: F401

import cakd_mm  # noqa: F401  (makes mmrazor importable)
