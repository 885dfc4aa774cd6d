"""pytest plugin of ``make test-original``: how much of the suite it runs."""

import pytest

counts = {}


@pytest.hookimpl(tryfirst=True)  # before -m deselects
def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker('current_only')]
    counts.update(suite=len(items), marked=len(marked))


def pytest_sessionfinish(session):
    # Under xdist the workers collect, each of them everything.
    if hasattr(session.config, 'workeroutput'):
        session.config.workeroutput['counts'] = counts


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    counts.update(getattr(node, 'workeroutput', {}).get('counts', {}))


def pytest_terminal_summary(terminalreporter):
    suite, marked = counts.get('suite', 0), counts.get('marked', 0)
    terminalreporter.write_line(
        f'{suite} tests in the suite, {suite - marked} of them run on the original '
        f'family, {marked} marked current_only'
    )
