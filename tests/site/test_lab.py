"""A live JupyterLab, as `sevref lab` opens it: notebooks run all their cells, panels answer as the firmware does, and
what they show fits, can be read and is reached by keys. Screenshots stay in build/screenshots."""

import pytest
from browser import SHOTS
from lab import NOTEBOOKS, PATIENCE, TOKEN, Notebook, Panel, Server, panels
from says import SAYS, Move

from support import peer

pytestmark = [pytest.mark.slow, pytest.mark.peer]

#: what a notebook shows besides its code, and the boxes in which JupyterLab puts it
SHOWN = ".jp-Notebook .jp-RenderedMarkdown, .jp-Notebook .jp-OutputArea-output"

#: what scrolls by itself has a name and takes the focus; of Markdown's tables JupyterLab moves the cell
WIDE = f"wide({SHOWN!r}, '[role=region], pre', '.jp-RenderedMarkdown')"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    peer("chromium")
    found = Server(tmp_path_factory.mktemp("lab"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(server, browser):
    """JupyterLab in a tab; notebooks are opened in it one after the other."""
    found = browser.page(1400, 1000)
    found.patience = PATIENCE
    found.open(f"{server.address}lab?token={TOKEN}&reset")
    found.wait("window.jupyterapp?.restored.then(() => true)", PATIENCE)
    found.evaluate("jupyterapp.shell.collapseLeft()")
    found.look_for("controls().length")
    yield found
    found.close()


@pytest.fixture(scope="module", params=NOTEBOOKS)
def book(request, page):
    """A notebook after one run of all its cells, shared by the tests of this module."""
    found = Notebook(page, request.param)
    yield found
    found.close()


def shot(book, number, look):
    book.page.screenshot(SHOTS / f"lab-{book.name.removesuffix('.ipynb')}-{number}-{look}.png")


def test_every_cell_runs(book):
    assert book.error is None
    assert book.skipped == 0
    assert book.page.problems == []
    assert book.page.evaluate("document.querySelectorAll('.Toastify__toast').length") == 0  # no window asks anything


def check(shown, move):
    """Make a move, and see that the answer is another one and says what it has to say."""
    before = shown.answer
    shown.set(move.label, move.value)
    answer = shown.answer
    assert answer != before, move
    for words in (move.words,) if isinstance(move.words, str) else move.words:
        assert words in answer, (move, answer[:400])
    for row, words in move.rows.items():
        found = shown.row(row)
        assert found is None if words is None else found and words in found, (move, found)


def test_panels_answer_as_the_firmware_does(book):
    """By keys alone, from the cell of the panel; no panel and no control without a move."""
    tables = SAYS.get(book.name, [])
    assert len(tables) == len(panels(book.name))
    for number, (cell, moves) in enumerate(zip(panels(book.name), tables, strict=True), 1):
        shown = Panel(book, cell)
        assert set(shown.labels) == {move.label for move in moves}
        assert shown.strangers == []
        assert shown.missed == []
        for move in moves:
            check(shown, move)
        shot(book, number, "wide")
    assert book.page.problems == []


@pytest.mark.parametrize("dark", [True, False], ids=["dark", "light"])
def test_what_is_shown_has_contrast(book, dark):
    book.theme(dark)
    assert book.page.look_for(f"contrast({SHOWN!r})") == {}
    for number, cell in enumerate(panels(book.name) if dark else [], 1):
        Panel(book, cell)
        shot(book, number, "dark")


@pytest.mark.parametrize("pixels", [400, 1400])
def test_what_is_shown_fits(book, pixels):
    book.width(pixels)
    assert book.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert book.page.look_for(WIDE) == []
    for number, cell in enumerate(panels(book.name), 1):
        shown = Panel(book, cell)
        assert shown.cut == []
        if pixels == 400:
            shot(book, number, "narrow")


@pytest.mark.parametrize("book", ["05-secret-injection.ipynb"], indirect=True)
def test_the_checks_can_fail(book):
    """One defect of each kind, planted into a panel that has none."""
    (cell,) = panels(book.name)
    shown = Panel(book, cell)
    assert (shown.labels, shown.strangers, shown.missed) == (["case", "byte", "bit"], [], [])
    with pytest.raises(AssertionError, match="INVALID_LENGTH"):
        check(shown, Move("case", "before LAUNCH_MEASURE", "INVALID_LENGTH"))
    with pytest.raises(AssertionError, match="disk key"):
        check(shown, Move("case", "as intended", "SUCCESS", {"the hypervisor": "disk key"}))
    with pytest.raises(AssertionError, match="no control 'flags'"):
        check(shown, Move("flags", 1))
    book.page.evaluate(
        f"{shown.root}.querySelector('select').tabIndex = -1; {shown.status}.insertAdjacentHTML('beforebegin', "
        """'<button>new</button><p style="color:#999;width:3000px;background:#fff">grey</p>'); console.error('planted')"""
    )
    assert [words.split(".")[0] for words in shown.missed] == ["not reached: select"]
    assert len(shown.strangers) == 1 and "new" in shown.strangers[0]
    assert [words.split()[-1] for words in book.page.look_for(f"contrast({SHOWN!r})").values()] == ["grey"]
    assert any(words.startswith("p. grey") for words in book.page.look_for(WIDE))
    assert book.page.problems == ["planted"]
    book.page.evaluate(
        f"{shown.root}.querySelector('.widget-dropdown .widget-label').textContent = 'a label that is too long to fit'"
    )
    assert len(shown.cut) == 1
