"""Rules for all HTML of sevref.show: what renderers strip is not needed, what readers need is there."""

import functools
import re
import subprocess
import sys

import pytest

from sevref import Exchange, Session, Status
from sevref.show import (
    Html,
    Showable,
    Stack,
    answer,
    byte_map,
    cast,
    chain_picture,
    checks_table,
    layout_table,
    palette,
    sequence,
    state_diagram,
    statement,
    status_table,
    table,
)
from sevref.show.heatmap import Gallery, bits, equality
from sevref.show.html import LIMIT, chip
from sevref.show.legend import legend
from sevref.show.matrix import Reply, matrix
from sevref.status import InputError
from show.page import Element, read
from show.strip import lines, stripped
from show.test_bytemap import SAMPLE, certificate
from show.test_pictures import LOG, ROWS, result

LONG = [Exchange("hypervisor", "AMD-SP", "LAUNCH_UPDATE_DATA", Status.SUCCESS, "4096 bytes") for _ in range(20)]


@functools.cache
def shown() -> dict[str, Showable]:
    other = bytearray(certificate().pack())
    other[20] ^= 1
    return {
        "byte map": byte_map(SAMPLE),
        "byte map with differences": byte_map(certificate(), diff=bytes(other)),
        "chain": chain_picture(result(PEK_CEK=Status.BAD_SIGNATURE)),
        "checks": checks_table(result()),
        "layout": layout_table(Session),
        "statuses": status_table(),
        "sequence": sequence(LOG + LONG, "A launch"),
        "states": state_diagram(ROWS, "INIT"),
        "answer": answer(InputError("field", "this", "that")),
        "names": table([{"party": Html(chip(name, colour), name)} for name, colour in palette.PARTIES.items()]),
        "bytes without table": byte_map(certificate(), fields=False),
        "parties": cast.party_table(),
        "keys": cast.key_table(),
        "legend": legend(),
        "matrix": matrix(
            {("INIT", "UNINIT"): Reply(Status.SUCCESS), ("INIT", "INIT"): Reply(Status(1), "a rule")}, "M"
        ),
        "bits": bits([b"\x0f", b"\xf0"], "Bits", "a note"),
        "gallery": Gallery(equality(bytes(64), "Blocks"), title="Pictures"),
        "stack": Stack(statement(True, "yes"), statement(None, "perhaps"), title="Two"),
    }


def background(text: Element, under: list[Element], page: str) -> str:
    """Colour behind a text of a drawing on this page: the boxes around its anchor, laid over each other."""
    x, y = float(text.attributes["x"]), float(text.attributes["y"])
    for box in under:
        left, top = float(box.attributes["x"]), float(box.attributes["y"])
        if left <= x <= left + float(box.attributes["width"]) and top <= y <= top + float(box.attributes["height"]):
            page = palette.over(box.attributes["fill"], page, float(box.attributes.get("fill-opacity", 1)))
    return page


@pytest.mark.parametrize("name", shown())
class TestEveryPicture:
    def test_has_inline_styles_only(self, name: str) -> None:
        page = shown()[name]._repr_html_()
        assert not re.search(r"<(style|script|link|iframe|object|foreignObject)\b", page, re.I)
        assert not re.search(r"\son\w+=|javascript:|class=|\bid=|url\(|https?:(?!//www\.w3\.org/2000/svg)", page)
        read(page)

    def test_is_the_same_every_time(self, name: str) -> None:
        assert shown.__wrapped__()[name]._repr_html_() == shown()[name]._repr_html_()
        assert not re.search(r"0x[0-9a-f]{10,}>| object at ", shown()[name].text())

    def test_stays_below_the_cap(self, name: str) -> None:
        assert len(shown()[name]._repr_html_().encode()) <= LIMIT == 200_000

    def test_text_colours_are_safe_on_both_pages(self, name: str) -> None:
        for element in read(shown()[name]._repr_html_()).all():
            colour, background = element.style.get("color"), element.style.get("background", "transparent")
            assert (colour or "inherit") in ("inherit", "#FFFFFF", palette.MARK[0])
            if colour == "#FFFFFF":
                assert palette.contrast(colour, background) >= 4.5
            elif colour == palette.MARK[0]:
                assert background == palette.MARK[1]
            else:
                assert background == "transparent" or re.fullmatch(r"rgba\(\d+,\d+,\d+,0\.[123]\d*\)", background)
            if element.tag == "text":
                assert element.attributes["fill"] in ("currentColor", "#FFFFFF")

    def test_text_of_drawings_has_contrast_on_both_pages(self, name: str) -> None:
        """4.5:1 against what was drawn under it: the page, a tint of a box, or the solid colour of a key."""
        for svg in read(shown()[name]._repr_html_()).all("svg"):
            under: list[Element] = []
            for element in svg.all():
                if element.tag == "rect":
                    under.append(element)
                if element.tag == "text":
                    for page, ink in (("#FFFFFF", "#212121"), ("#111111", "#FFFFFF")):
                        own = element.attributes["fill"]
                        ground = background(element, under, page)
                        assert palette.contrast(ink if own == "currentColor" else own, ground) >= 4.5, element.text()

    def test_nothing_is_wider_than_the_page(self, name: str) -> None:
        """Tables, drawings and fixed lines stand inside something that scrolls, and the keyboard reaches that."""
        page = read(shown()[name]._repr_html_())
        scrolling = [e for e in page.all() if e.style.get("overflow-x") == "auto"]
        assert all(e.attributes.get("tabindex") == "0" for e in scrolling)
        inside = [id(e) for region in scrolling for e in region.all()]
        wide = [e for e in page.all() if e.tag in ("table", "svg")]
        assert all(id(e) in inside for e in wide)

    def test_drawings_have_a_name_and_a_text_form(self, name: str) -> None:
        picture = shown()[name]
        page = read(picture._repr_html_())
        for svg in page.all("svg"):
            assert svg.attributes["role"] == "img" and svg.attributes["aria-label"]
            assert picture.text() in page.text()

    def test_drawings_whose_tags_are_stripped_leave_sentences(self, name: str) -> None:
        page = shown()[name]._repr_html_()
        left = [line for line in lines(stripped(page)) if line not in lines(stripped(page, drawings=False))]
        expected = {
            "chain": [
                "ARK (AMD): AMD root key, ✓ signs itself, pinned",
                "  ASK → CEK: ✓ signature valid",
                "  CEK → PEK: ✗ BAD_SIGNATURE",
            ],
            "sequence": [
                " 2. hypervisor → AMD-SP: LAUNCH_START ✓ SUCCESS: handle 1",
                " 3. guest owner: compare ✗ BAD_MEASUREMENT (0x0B): refuses <it>",
            ],
            "states": ["  UNINIT → INIT: INIT", "INIT  ◀ now; stays with PDH_GEN", "  INIT → WORKING: LAUNCH_START"],
        }
        assert bool(left) == (name in expected)
        for line in expected.get(name, ()):
            assert line in left

    def test_says_the_same_without_styles(self, name: str) -> None:
        """Every word of the text form is somewhere in the words of the HTML."""
        picture = shown()[name]
        page = read(picture._repr_html_()).text()
        if name in ("checks", "layout", "statuses", "answer", "stack"):
            spoken = [word.strip("[]") for word in picture.text().split() if set(word) != {"-"}]
            assert spoken and all(word in page for word in spoken)

    def test_repr_is_the_text_form(self, name: str) -> None:
        assert repr(shown()[name]) == str(shown()[name]) == shown()[name].text()


def test_what_is_too_large_is_cut() -> None:
    page = Html("<div>" + "<b>x</b>" * 100_000 + "</div>", '"&<' * 100_000, "Big")._repr_html_()
    assert len(page.encode()) <= LIMIT
    assert "too large to draw" in page
    read(page)
    page = Stack(*[byte_map(bytes(range(256)) * 64) for _ in range(9)])._repr_html_()
    assert len(page.encode()) <= LIMIT


def test_text_is_escaped() -> None:
    nasty = "<img src=x onerror=alert(1)>\"'"
    pages = [
        byte_map([(nasty, b"\1", nasty)], nasty)._repr_html_(),
        sequence([(nasty, nasty, nasty, nasty, nasty)], nasty)._repr_html_(),
        state_diagram([(nasty, nasty, nasty)], nasty, nasty)._repr_html_(),
        statement(False, nasty, [nasty], nasty)._repr_html_(),
        layout_table(type(SAMPLE))._repr_html_(),
    ]
    for page in pages:
        elements = read(page).all()
        assert not [element for element in elements if element.tag == "img"]
        names = {name for element in elements for name in element.attributes}
        assert all(re.fullmatch(r"[a-z]+[0-9]?(-[a-z]+)*|viewbox", name) for name in names)
        assert not names & {"src", "onerror"}


def test_importing_show_loads_no_notebook_library() -> None:
    program = "import sys, sevref.show; print([m for m in ('IPython', 'ipywidgets', 'pandas', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
