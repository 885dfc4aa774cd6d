import os
import shlex
import shutil

import pytest


@pytest.fixture(autouse=True)
def _compiler():
    if shutil.which(shlex.split(os.environ.get('CXX') or 'c++')[0]) is None:
        pytest.skip('there is no C++ compiler')
