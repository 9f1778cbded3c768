"""The built pages in Chromium: narrow and wide, light and dark, with the keyboard. Screenshots stay in build/screenshots."""

from urllib.parse import urlsplit

import pytest
from browser import SHOTS

from support import ROOT

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
    *(f"notebooks/{path.stem}.html" for path in sorted((ROOT / "notebooks").glob("*.ipynb"))),
]


@pytest.fixture(scope="module")
def page(browser):
    found = browser.page()
    yield found
    found.close()


@pytest.fixture(scope="module", params=PAGES)
def name(request, base, page):
    """A page that is open in the tab, freshly loaded, for the tests of this module; all that is folded is open."""
    page.look(1400)
    page.problems.clear()
    page.requests.clear()
    page.open(base + request.param)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    return request.param


def test_a_page_loads_without_an_error(name, base, page):
    assert page.problems == []
    host = urlsplit(base).netloc
    assert {urlsplit(url).netloc for url in page.requests if not url.startswith(("data:", "blob:"))} == {host}


@pytest.mark.parametrize("width", [400, 1400])
def test_a_page_fits(name, page, width):
    page.look(width, 1200, dark=PAGES.index(name) % 2 == 1)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.look_for("wide()") == []
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(SHOTS / f"{name.removesuffix('.html').replace('/', '-')}-{width}.png")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_has_contrast(name, page, dark):
    page.look(1400, 1200, dark)
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") is not dark
    assert page.look_for("contrast()") == {}


def walk(page):
    """Tab through the whole page, from its beginning; the link back there is offered only on the way up."""
    page.evaluate("getSelection().empty(), scrollTo(0, 0)")
    page.wait("!document.querySelector('.back-to-top').checkVisibility()", 20)
    for _ in range(page.look_for("watch()") // 50 + 3):  # boxes that scroll are reached too
        page.press(*["Tab"] * 50)


def test_the_keyboard_reaches_everything(name, page):
    page.look(1400, 1200)
    walk(page)
    assert page.look_for("missed()") == []


def test_the_checks_can_fail(base, page):
    """One defect of each kind, planted into a page that has none."""
    page.look(1400)
    page.open(base + "glossary.html")
    assert (page.look_for("contrast()"), page.look_for("wide()")) == ({}, [])
    page.evaluate(
        "document.querySelector('article').insertAdjacentHTML('afterbegin', "
        """'<p style="color:#999">grey</p><svg width="90" height="30"><rect width="90" height="30" fill="#069"/>"""
        """<rect x="30" width="60" height="30" fill="#000" fill-opacity="0.5"/><text x="40" y="20" fill="#555">dark</text>"""
        """<text y="20" fill="#fff">fine</text></svg><div style="overflow:auto"><pre style="width:3000px">own</pre></div>"""
        """<table style="width:3000px"><tr><td>wide</td></tr></table><a href="#" tabindex="-1">skipped</a>"""
        """<a href="#" style="outline:0">unseen</a>'); console.error('planted')"""
    )
    assert sorted(words.split()[-1] for words in page.look_for("contrast()").values()) == ["dark", "grey"]
    assert {words.split(".")[0] for words in page.look_for("wide()")} == {"table", "tbody", "tr", "td"}
    walk(page)
    assert [words.split(".")[0] for words in page.look_for("missed()")] == ["not reached: a", "unseen: a"]
    assert page.problems[-1] == "planted"


def tab_to(page, goal, most=400):
    for _ in range(most):
        page.press("Tab")
        if page.evaluate(f"document.activeElement.matches({goal!r})"):
            return
    pytest.fail(f"the keyboard does not reach {goal}")


def test_the_keyboard_reaches_the_search(base, page):
    page.look(1400)
    page.open(base + "index.html")
    page.problems.clear()
    tab_to(page, "input.sidebar-search", 10)
    page.press(*"POLICY_MAC", "Enter")
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
