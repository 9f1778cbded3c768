"""The man in the middle of a migration: each setting, and what sheet 30, section 10.3, says about it."""

import pytest

from sevref.show.transit import TEXTS, packets_in_the_middle


@pytest.fixture(scope="module")
def panel():
    return packets_in_the_middle()


NOTHING = "An honest receiver misses nothing."
CASES = {
    "nothing": ("arrived as it was sent", NOTHING),
    "drop a page": ("noticed nothing", "misses something: 4 of 5 records"),
    "drop everything but that page": ("noticed nothing", "misses something: 2 of 5 records"),
    "deliver a page twice": ("arrived as it was sent", "misses something: 6 of 5 records"),
    "reverse the order": ("arrived as it was sent", NOTHING),
    "exchange the addresses of two pages": ("noticed nothing", NOTHING),
    "deliver an older copy of page 0 last": ("noticed nothing", "misses something: 6 of 5 records"),
    "page 0 of another SEND_START": ("BAD_MEASUREMENT", "4 of 5"),
    "flip a bit: FLAGS: COMPRESSED": ("UNSUPPORTED", "4 of 5"),
    "flip a bit: FLAGS": ("BAD_MEASUREMENT", "4 of 5"),
    "flip a bit: IV": ("BAD_MEASUREMENT", "4 of 5"),
    "flip a bit: MAC": ("BAD_MEASUREMENT", "4 of 5"),
    "flip a bit: payload": ("BAD_MEASUREMENT", "4 of 5"),
    "call a data packet a VMSA": ("UNSUPPORTED", "4 of 5"),
}


@pytest.mark.parametrize("case", CASES)
def test_cases(panel, case):
    panel.set("case", case)
    for words in CASES[case]:
        assert words in panel.value_text, panel.value_text


def test_every_case_is_here(panel):
    assert set(panel._controls["case"].options) == set(CASES)


def test_pages(panel):
    panel.set("case", "exchange the addresses of two pages")
    panel.set("page", 2)
    found = panel.value_text
    assert [found.index(text.decode()) for text in (TEXTS[0], TEXTS[1], TEXTS[3], TEXTS[2])] == sorted(
        found.index(text.decode()) for text in TEXTS
    )
    panel.set("case", "deliver an older copy of page 0 last")
    assert "page 0: as it was some time ago" in panel.value_text
    panel.set("case", "drop a page")
    assert "(noise)" in panel.value_text
    panel.reset()
    assert str(panel.static()) != "" and "Default case" in panel.static().text()
