"""The built pages in Chromium: narrow and wide, light and dark, with the keyboard. Screenshots stay in build/screenshots."""

from urllib.parse import urlsplit

import pytest
from browser import SHOTS

pytestmark = [pytest.mark.slow, pytest.mark.peer]

PAGES = [
    "index.html",
    "readme.html",
    "keys.html",
    "layouts.html",
    "statuses.html",
    "states.html",
    "questions.html",
    "properties.html",
    "hypervisor.html",
    "glossary.html",
    "check-your-implementation.html",
    "bug-as-a-trace.html",
    "protocol/index.html",
    "traces/index.html",
    "commands/index.html",
    "commands/launch_start.html",
    "commands/send_start.html",
    "cli/session.html",
    "api/index.html",
    "api/sevref.certs.html",
]

#: text against what is behind it, by WCAG 2, for every visible piece of text of a page; the worst ones first
CONTRAST = """
(() => {
  const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;
  const ink = canvas.getContext('2d', {willReadFrequently: true});
  const rgba = colour => {
    ink.clearRect(0, 0, 1, 1); ink.fillStyle = colour; ink.fillRect(0, 0, 1, 1);
    const d = ink.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255];
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat([1]);
  const light = c => {
    const l = c.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2];
  };
  const behind = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const found = {};
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n = walk.nextNode(); n; n = walk.nextNode()) {
    const e = n.parentElement;
    if (!n.data.trim() || !e.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})) continue;
    if (e.closest('svg, script, style, .sr-only, .visually-hidden, .headerlink')) continue;
    const style = getComputedStyle(e), back = behind(e), size = parseFloat(style.fontSize);
    const a = light(over(rgba(style.color), back)), b = light(back);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) found[style.color + ' on ' + back.map(Math.round)] =
      [ratio.toFixed(2), e.tagName + '.' + e.className, n.data.trim().slice(0, 40)];
  }
  return found;
})()
"""
#: elements that stick out of the page and are in no box that scrolls
WIDE = """
[...document.querySelectorAll('body *')].filter(e => {
  if (!e.checkVisibility() || e.closest('.sidebar-drawer, .toc-drawer, svg')) return false;
  if (e.getBoundingClientRect().right <= innerWidth + 1) return false;
  for (let p = e.parentElement; p !== document.documentElement; p = p.parentElement)
    if (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(p).overflowX)) return false;
  return true;
}).slice(0, 5).map(e => e.tagName + '.' + e.className + ' ' + e.textContent.trim().slice(0, 40))
"""


@pytest.fixture(scope="module")
def page(browser):
    found = browser.page()
    yield found
    found.close()


def names(site):
    return PAGES + [f"notebooks/{path.name}" for path in sorted((site / "notebooks").glob("*.html"))]


@pytest.mark.parametrize("width", [400, 1400])
def test_pages_fit_and_load_without_an_error(site, base, page, width):
    page.problems.clear()
    page.requests.clear()
    for dark, name in enumerate(names(site)):
        page.look(width, 1200, dark=bool(dark % 2))
        page.open(base + name)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        assert page.evaluate(WIDE) == [], name
        page.screenshot(SHOTS / f"{name.removesuffix('.html').replace('/', '-')}-{width}.png")
    assert page.problems == []
    host = urlsplit(base).netloc
    assert {urlsplit(url).netloc for url in page.requests if not url.startswith(("data:", "blob:"))} == {host}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_has_contrast(site, base, page, dark):
    page.look(1400, 1200, dark)
    for name in names(site):
        page.open(base + name)
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert page.evaluate(CONTRAST) == {}, name
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") is not dark


def test_the_check_of_contrast_can_fail(base, page):
    page.look(1400)
    page.open(base + "glossary.html")
    page.evaluate("document.querySelector('article p').style.color = '#999'")
    assert len(page.evaluate(CONTRAST)) == 1
    page.evaluate("document.querySelector('article').style.width = '3000px'")
    assert page.evaluate(WIDE) != []


def tab_to(page, goal, most=400):
    for _ in range(most):
        page.press("Tab")
        if page.evaluate(f"document.activeElement.matches({goal!r})"):
            return
    pytest.fail(f"the keyboard does not reach {goal}")


def test_the_keyboard_reaches_the_search(base, page):
    page.look(1400)
    page.open(base + "index.html")
    tab_to(page, "input.sidebar-search", 10)
    page.type("POLICY_MAC")
    page.press("Enter")
    page.wait("document.querySelector('#search-results')?.textContent.includes('Search finished')", 60)
    found = page.evaluate("[...document.querySelectorAll('#search-results li a')].map(a => a.getAttribute('href'))")
    assert any("layouts.html" in href for href in found) and any("03-key-transport" in href for href in found)
    assert page.problems == []


def test_the_keyboard_opens_what_is_folded(base, page):
    page.look(1400)
    page.open(base + "notebooks/00-start-here.html")
    page.evaluate("[...document.querySelectorAll('article summary')].at(-1).parentElement.id = 'last'")
    before = page.evaluate("document.getElementById('last').open")
    tab_to(page, "#last > summary")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.press("Enter")
    assert page.evaluate("document.getElementById('last').open") is not before


def test_the_keyboard_moves_wide_tables(base, page):
    page.look(400)
    page.open(base + "notebooks/00-start-here.html")
    tab_to(page, "[role=region]")
    page.press("ArrowRight")
    page.wait("document.activeElement.scrollLeft > 0", 20)
