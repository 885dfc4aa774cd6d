"""Nothing but the import that has to come first."""

import cakd_mm  # noqa: F401  (makes mmrazor importable)
