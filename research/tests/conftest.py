"""Fixtures of these tests."""

from fresh_globals import (  # noqa: F401
    _configs_read_once,
    _fresh_globals,
    _garbage_left,
    _plain_layout,
    _scopes_without_a_sleep,
)

import cakd_mm  # noqa: F401  (makes mmrazor importable)
