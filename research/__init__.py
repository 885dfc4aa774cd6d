"""How the tables, studies and pages of this project are made; see README.md."""

import cakd_mm  # noqa: F401  (before any config is read: registers `cakd_mm::`)
