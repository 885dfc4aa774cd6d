"""What runs on the fake GPU, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@pytest.mark.current_only  # Older versions of PyTorch know no device made in Python.
def test_the_checks_on_a_fake_gpu(root):
    """They are ``inside/check_*.py``; ``pytest`` with these names runs them by hand."""
    paths = [str(root), str(root / 'tests'), str(FOLDER)]
    checks = sorted(map(str, FOLDER.glob('inside/check_*.py')))
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *checks],
        cwd=root,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
