"""A headless Chromium, or the reason why a test of a page is skipped."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
OPTIONS = (
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
)


@contextmanager
def chromium() -> Iterator:
    """Start the machine's browser.

    Without one the test is skipped, or fails if REQUIRE_BROWSER is 1.
    """
    named = os.environ.get('CHROMIUM')
    path = named or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        reason = 'no Chromium: install one, or name it in CHROMIUM'
        if os.environ.get('REQUIRE_BROWSER') == '1':
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()
