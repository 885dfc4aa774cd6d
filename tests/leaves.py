"""The shipped configs, and what each inherits."""

import ast
from pathlib import Path

from tiny import CONFIGS

BASES = CONFIGS / '_base_'
SHIPPED = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob('*.py')
    if '_base_' not in path.parts
)
# Those of detectors and segmentors, by their data.
DENSE = [name for name in SHIPPED if Path(name).stem.endswith(('_coco', '_cityscapes'))]
# Small ones, of the demos and of brain slices: test_tools/test_demo_scenes.py.
SMALL = [name for name in SHIPPED if '_scenes-' in name or name.endswith('_brain.py')]
LEAVES = [name for name in SHIPPED if name not in DENSE + SMALL]


def bases(file: Path) -> list[Path]:
    """Return the files of ours that a file lists in its ``_base_``."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '_base_':
            listed = ast.literal_eval(node.value)
            listed = [listed] if isinstance(listed, str) else listed
            return [(file.parent / x).resolve() for x in listed if '::' not in x]
    return []


def chains(file: Path) -> list[list[Path]]:
    """Return every way from a file to a base that has no base itself."""
    ways = [chain for base in bases(file) for chain in chains(base)]
    return [[file, *way] for way in ways or [[]]]
