"""CAKD and the methods it is compared with, as a plugin for MMRazor.

Importing the package makes MMRazor importable on PyTorch >= 2 and registers
losses, connectors and scorers in MMRazor's registry, backbones and datasets
in mmpretrain's.
"""

from . import compat
from .version import __version__

with compat.quiet_imports(), compat.hidden_modules(*compat.OPTIONAL):
    compat.check_stack()
    compat.import_mmrazor()
    compat.register_package()
    compat.write_types_by_name()
    compat.lay_out_texts_once()
    compat.guard_readers()
    compat.checkpoint_whole_modules()
    compat.let_nets_of_others_nest()

    from . import datasets, engine, models  # noqa: F401  (they register themselves)
    from .utils.hub import register_models
    from .visualization import trackers_hook  # noqa: F401

compat.let_optional_projects_be_found()
compat.prepare_optional_projects()
register_models()

__all__ = ['__version__']
