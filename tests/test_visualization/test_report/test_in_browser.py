"""The page of a report in a browser: at a desk and on a phone, without a network."""

import re

import pytest
from browser import chromium

TABS = ('Accuracy', 'Table', 'Terms', 'Configs', 'Predictions', 'Runs')
WITH_PLOTS = ('Accuracy', 'Terms')
# Where the last point of the last line of a plot is, in the window.
LAST_POINT = """canvas => {
    const {xaxis, yaxis} = canvas._fullLayout;
    const trace = canvas.data[canvas.data.length - 1];
    const box = canvas.getBoundingClientRect();
    const last = trace.x.length - 1;
    return [
        box.x + xaxis._offset + xaxis.d2p(trace.x[last]),
        box.y + yaxis._offset + yaxis.d2p(trace.y[last]),
    ];
}"""
COLOURS = """() => [
    getComputedStyle(document.body).backgroundColor,
    document.querySelector('.canvas')._fullLayout.font.color,
]"""


@pytest.fixture(scope='module')
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(
    scope='module', params=[(1280, 'light'), (390, 'dark')], ids=['desk', 'phone']
)
def opened(browser, written, request):
    """The open page, in which nothing may go wrong and nothing be fetched."""
    width, scheme = request.param
    page = browser.new_page(viewport=dict(width=width, height=800), color_scheme=scheme)
    wrong: list[str] = []
    page.on('console', lambda message: wrong.append(message.text))
    page.on('pageerror', lambda error: wrong.append(str(error)))
    page.on('request', lambda request: wrong.append(request.url))
    page.goto(written.as_uri())
    yield page
    assert wrong == [written.as_uri()]
    assert page.evaluate('window.hit') is None
    page.close()


def open_tab(page, name):
    """Choose a tab, and wait until all its plots are drawn."""
    page.get_by_role('tab', name=name).click()
    canvases = page.locator('.canvas:visible')
    for place in range(canvases.count()):
        lines = canvases.nth(place).locator('.scatterlayer .trace')
        lines.first.wait_for(state='attached')
    return canvases


def test_each_tab_opens_and_nothing_is_wider_than_the_window(opened):
    tabs = opened.get_by_role('tab')
    assert tuple(tabs.all_inner_texts()) == TABS
    for name in TABS:
        plots = open_tab(opened, name)
        assert opened.get_by_role('tabpanel').count() == 1
        assert (plots.count() > 0) == (name in WITH_PLOTS)
        width = opened.evaluate('document.documentElement.scrollWidth')
        assert width <= opened.viewport_size['width'], name
    for key, name in (('ArrowRight', 'Accuracy'), ('ArrowLeft', 'Runs')):
        opened.keyboard.press(key)
        assert opened.locator('[aria-selected=true]').inner_text() == name


def test_hovering_tells_the_value_of_the_log(opened):
    canvas = open_tab(opened, 'Accuracy').first
    canvas.scroll_into_view_if_needed()
    opened.mouse.move(*canvas.evaluate(LAST_POINT))
    shown = opened.locator('.hoverlayer .hovertext').first
    shown.wait_for()
    text = re.sub(r'\s+', ' ', shown.text_content())
    # The plain student is the last line; its seeds ended with these scores.
    assert 'mean 90.20' in text
    assert 'seed 1: 90.10, seed 2: 90.20, seed 3: 90.30' in text


def test_a_name_of_the_legend_hides_its_lines(opened):
    lines = open_tab(opened, 'Accuracy').first.locator('.scatterlayer .trace')
    name = opened.locator('.legend:visible button', has_text='plain')
    assert lines.count() == 5
    name.click()
    lines.nth(3).wait_for(state='detached')
    assert lines.count() == 3
    open_tab(opened, 'Terms')
    assert name.get_attribute('aria-pressed') == 'false'
    name.click()
    open_tab(opened, 'Accuracy')
    assert lines.count() == 5


def test_colours_follow_the_system(opened):
    open_tab(opened, 'Accuracy')
    found = {}
    for scheme in ('light', 'dark'):
        opened.emulate_media(color_scheme=scheme)
        opened.wait_for_timeout(50)
        found[scheme] = opened.evaluate(COLOURS)
    assert found == {
        'light': ['rgb(255, 255, 255)', '#1c2229'],
        'dark': ['rgb(21, 25, 30)', '#e4e8ec'],
    }


def test_without_scripts_all_is_there_to_read(browser, written):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(written.as_uri())
    assert page.locator('section:visible').count() == len(TABS)
    assert page.get_by_role('heading', name='Terms', exact=True).is_visible()
    assert page.get_by_role('cell', name='92.20 ± 0.20').first.is_visible()
    assert page.locator('figure:visible').count() == 0
    context.close()
