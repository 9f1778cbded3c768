"""Contrast by WCAG 2: 4.5:1 for text, 3:1 for lines and edges, on a white page and on JupyterLab's dark one."""

import itertools
import re

import pytest

from sevref.show import palette
from support import ROOT

WHITE, DARK = "#FFFFFF", "#111111"
#: colour of text on the page: JupyterLab's (87 % black on white, white on #111111)
INK = {WHITE: "#212121", DARK: "#FFFFFF"}
COLOURS = {**palette.PARTIES, **palette.KEYS, "ok": palette.OK, "bad": palette.BAD, "neutral": palette.NEUTRAL}
COLOURS["pending"] = palette.PENDING
COLOURS |= {f"field {i}": colour for i, colour in enumerate(palette.FIELDS)}


def test_the_ratio_itself() -> None:
    assert palette.contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert palette.contrast("#FFFFFF", "#FFFFFF") == pytest.approx(1)
    assert palette.contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)  # the textbook near miss
    assert palette.over("#FF0000", "#FFFFFF", 0.5) == "#FF8080"


@pytest.mark.parametrize("name", COLOURS)
def test_white_text_on_a_solid_colour(name: str) -> None:
    assert palette.contrast(COLOURS[name], WHITE) >= 4.5


@pytest.mark.parametrize("page", [WHITE, DARK])
@pytest.mark.parametrize("name", COLOURS)
def test_lines_on_the_page(name: str, page: str) -> None:
    assert palette.contrast(COLOURS[name], page) >= 3


@pytest.mark.parametrize("page", [WHITE, DARK])
@pytest.mark.parametrize("name", COLOURS)
def test_text_on_a_tint(name: str, page: str) -> None:
    for alpha in (0.12, 0.13, 0.2, 0.3):
        assert palette.contrast(palette.over(COLOURS[name], page, alpha), INK[page]) >= 4.5


def test_no_other_module_of_show_has_a_colour_of_its_own() -> None:
    for path in sorted((ROOT / "sevref" / "show").glob("*.py")):
        found = re.findall(r"#[0-9A-Fa-f]{3,8}\b|\b(?:rgb|hsl)a?\(\s*\d", path.read_text(encoding="utf-8"))
        assert bool(found) == (path.name == "palette.py"), (path.name, found)


def test_highlighted_bytes() -> None:
    text, background = palette.MARK
    assert palette.contrast(text, background) >= 4.5


@pytest.mark.parametrize("table", [palette.PARTIES, palette.KEYS, dict(enumerate(palette.FIELDS))])
def test_no_two_alike(table: dict[object, str]) -> None:
    for a, b in itertools.combinations(table.values(), 2):
        assert sum(abs(x - y) for x, y in zip(palette.rgb(a), palette.rgb(b), strict=True)) >= 30


def test_every_party_and_key_has_a_colour() -> None:
    assert set(palette.PARTIES) == {"AMD", "platform owner", "hypervisor", "guest owner", "AMD-SP", "guest"}
    wanted = {"ARK", "ASK", "CEK", "OCA", "PEK", "PDH", "GODH", "KEK", "KIK", "TEK", "TIK", "VEK", "OEK"}
    assert set(palette.KEYS) == wanted


@pytest.mark.parametrize(
    ("given", "shown"),
    [("firmware", "AMD-SP"), ("guest_owner", "guest owner"), ("Hypervisor", "hypervisor"), ("verifier", "verifier")],
)
def test_names_of_parties(given: str, shown: str) -> None:
    assert palette.party_name(given) == shown
    assert palette.party(given) == palette.PARTIES.get(shown, palette.NEUTRAL)
