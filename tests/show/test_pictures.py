"""Tables, chain pictures, sequence diagrams and state diagrams: what they say in HTML and in text."""

from types import SimpleNamespace

import pytest

from sevref import Exchange, SevError, Status
from sevref.certs import Check
from sevref.show import (
    answer,
    chain_picture,
    checks_table,
    digest_of,
    layout_table,
    palette,
    sequence,
    state_diagram,
    status_table,
    table,
)
from sevref.status import InputError
from sevref.transport import PacketMacInput, Session
from show.page import read

OK, BAD, INVALID = Status.SUCCESS, Status.BAD_SIGNATURE, Status.INVALID_CERTIFICATE


def result(**wrong: Status) -> SimpleNamespace:
    """A chain's result as ``verify_chain`` reports it; ``wrong`` names checks that fail, as ``PEK_CEK`` or ``ARK_``."""
    links = [
        ("ARK", "ARK"),
        ("ASK", "ARK"),
        ("CEK", "ASK"),
        ("OCA", "OCA"),
        ("PEK", "OCA"),
        ("PEK", "CEK"),
        ("PDH", "PEK"),
    ]
    checks = [Check(name, "", "present", True, OK, "given") for name in ("ARK", "ASK", "CEK", "OCA", "PEK", "PDH")]
    for subject, issuer in links:
        status = wrong.get(f"{subject}_{issuer}", OK)
        checks.append(Check(subject, issuer, "signature", status == OK, status, f"by {issuer}"))
    status = wrong.get("root", OK)
    checks.append(Check("ARK", "", "root hash", status == OK, status, "pinned <hash>"))
    return SimpleNamespace(
        checks=checks, valid=not wrong, root="unknown" if wrong else "amd", generation="milan", warnings=[], ignored=[]
    )


# -- chain


def test_a_good_chain() -> None:
    shown = chain_picture(result())
    assert shown.text().splitlines() == [
        "Certificate chain: ✓ valid · root amd · milan",
        "  ✓ ARK        signs itself, pinned",
        "  ✓ ARK -> ASK signature valid",
        "  ✓ ASK -> CEK signature valid",
        "  ✓ OCA        signs itself",
        "  ✓ CEK -> PEK signature valid",
        "  ✓ OCA -> PEK signature valid",
        "  ✓ PEK -> PDH signature valid",
    ]
    (svg,) = read(shown._repr_html_()).all("svg")
    words = [text.text() for text in svg.all("text")]
    assert words.count("✓ signature valid") == 5
    assert [word for word in words if word in palette.KEYS] == ["ARK", "ASK", "CEK", "OCA", "PEK", "PDH"]
    assert "✗" not in shown._repr_html_()


@pytest.mark.parametrize(
    ("link", "line"),
    [
        ("ASK_ARK", "✗ ARK -> ASK BAD_SIGNATURE: by ARK"),
        ("CEK_ASK", "✗ ASK -> CEK BAD_SIGNATURE: by ASK"),
        ("PEK_CEK", "✗ CEK -> PEK BAD_SIGNATURE: by CEK"),
        ("PEK_OCA", "✗ OCA -> PEK BAD_SIGNATURE: by OCA"),
        ("PDH_PEK", "✗ PEK -> PDH BAD_SIGNATURE: by PEK"),
    ],
)
def test_the_verdict_stands_on_the_link_that_failed(link: str, line: str) -> None:
    shown = chain_picture(result(**{link: BAD}))
    failed = [text.strip() for text in shown.text().splitlines()[1:] if "✗" in text]
    assert failed == [line]
    (svg,) = read(shown._repr_html_()).all("svg")
    assert [text.text() for text in svg.all("text") if "✗" in text.text()] == ["✗ BAD_SIGNATURE"]
    arrows = [path for path in svg.all("path") if path.attributes["stroke"] == palette.BAD]
    assert len(arrows) == 1


def test_roots_that_are_not_the_pinned_ones() -> None:
    shown = chain_picture(result(root=INVALID))
    assert "  ✗ ARK        root hash fails: pinned <hash>" in shown.text().splitlines()
    assert "✗ root hash fails" in shown._repr_html_()
    shown = chain_picture(result(OCA_OCA=INVALID))
    assert "✗ OCA        INVALID_CERTIFICATE: by OCA" in shown.text()


def test_a_missing_certificate() -> None:
    found = result()
    found.checks = [
        Check(c.subject, c.issuer, c.check, False, INVALID, "missing; needed: it")
        if "OCA" in (c.subject, c.issuer)
        else c
        for c in found.checks
    ]
    text = chain_picture(found).text()
    assert "✗ OCA        missing: missing; needed: it" in text
    assert "✗ OCA -> PEK cannot be checked: without OCA" in text
    assert "✓ CEK -> PEK signature valid" in text


def test_a_link_that_nobody_checked_is_neither_good_nor_bad() -> None:
    found = result()
    found.checks = [check for check in found.checks if check.issuer != "PEK"]
    assert "○ PEK -> PDH not checked" in chain_picture(found).text()


def test_parties_have_their_colours_in_the_chain() -> None:
    (svg,) = read(chain_picture(result())._repr_html_()).all("svg")
    boxes = [rect.attributes["stroke"] for rect in svg.all("rect") if "stroke" in rect.attributes]
    amd, owner, firmware = (palette.PARTIES[name] for name in ("AMD", "platform owner", "AMD-SP"))
    assert boxes == [amd, amd, firmware, owner, firmware, firmware]


@pytest.mark.parametrize(
    ("owned", "colour", "words"),
    [(True, "#0175C1", "OCA (AMD-SP)"), (False, "#8759CA", "OCA (platform owner)"), (None, "#8759CA", "OCA (owner or AMD-SP)")],
)  # fmt: skip
def test_the_box_of_the_oca_says_whose_key_it_is(owned: bool | None, colour: str, words: str) -> None:
    shown = chain_picture(result(), self_owned=owned)
    (svg,) = read(shown.html()).all("svg")
    (box,) = svg.all("rect", x="212", stroke_width="1.2")
    assert box.attributes["stroke"] == colour and words in svg.text()
    (said,) = [line for line in shown.text().splitlines() if "private key" in line] or [""]
    assert said.removeprefix("  private key of the OCA: ") == ("" if owned is None else words[5:-1])


def test_checks_table() -> None:
    found = result(PEK_CEK=BAD)
    found.warnings, found.ignored = ["CEK: <odd>"], ["notes.txt"]
    shown = checks_table(found)
    (page,) = read(f"<div>{shown._repr_html_()}</div>").all("table")
    rows = [[cell.text() for cell in row.all("td")] for row in page.all("tr")][1:]
    assert len(rows) == 14
    assert rows[11] == ["PEK", "CEK", "signature", "✗ BAD_SIGNATURE", "by CEK"]
    assert rows[10] == ["PEK", "OCA", "signature", "✓ passed", "by OCA"]
    assert "warning: CEK: <odd>" in shown.text() and "warning: CEK: &lt;odd&gt;" in shown._repr_html_()
    assert "ignored: notes.txt" in shown.text()


# -- tables


def test_tables_of_dicts_and_of_sequences() -> None:
    a = table([{"x": 1, "y": b"\x01\xab"}, {"x": 2, "y": True}], "T")
    b = table([(1, b"\x01\xab"), (2, True)], "T", ["x", "y"])
    assert a.text() == b.text() == "T\nx  y\n-  ----\n1  01ab\n2  yes"
    assert a._repr_html_() == b._repr_html_()
    frame = a.frame()
    assert list(frame.columns) == ["x", "y"] and frame["x"].tolist() == [1, 2]
    with pytest.raises(TypeError):
        table([(1,)])


def test_cells() -> None:
    page = table([{"s": Status.BAD_MEASUREMENT, "t": "<&>", "n": None, "l": (1, 2)}])
    assert page.text().splitlines()[-1] == "✗ BAD_MEASUREMENT (0x0B)  <&>     1, 2"
    cells = [cell.text() for cell in read(page._repr_html_()).all("td")]
    assert cells == ["✗ BAD_MEASUREMENT (0x0B)", "<&>", "", "1, 2"]
    assert table([]).text() == "\n" and "<table" in table([], "empty")._repr_html_()


def test_long_cells_run_over_lines_in_text() -> None:
    lines = table([{"a": "k", "b": "word " * 40}]).text().splitlines()
    assert len(lines) == 5 and all(len(line) <= 90 for line in lines)


def test_a_table_of_any_length_stays_below_the_cap() -> None:
    page = table([{"a": "x" * 500, "n": i} for i in range(2000)])._repr_html_()
    assert len(page.encode()) <= 200_000 and "more rows are not drawn" in page


def test_layout_table() -> None:
    lines = layout_table(Session).text().splitlines()
    assert lines[0] == "Session  128 bytes (0x80)"
    assert [line.split()[:4] for line in lines[3:]] == [
        ["nonce", "0x000", "16", "bytes"],
        ["wrap_tk", "0x010", "32", "bytes"],
        ["wrap_iv", "0x030", "16", "bytes"],
        ["wrap_mac", "0x040", "32", "bytes"],
        ["policy_mac", "0x060", "32", "bytes"],
    ]
    assert "varies" in layout_table(PacketMacInput).text()


def test_status_table() -> None:
    text = status_table().text()
    assert "0x0B  BAD_MEASUREMENT" in text and "0x00  SUCCESS" in text
    assert len(status_table([Status.ACTIVE]).text().splitlines()) == 4


# -- answers


def test_an_error_as_an_answer() -> None:
    shown = answer(SevError(Status.BAD_MEASUREMENT, "WRAP_MAC <does not> match", "LAUNCH_START"))
    assert shown.text().splitlines()[:2] == ["✗ BAD_MEASUREMENT (0x0B)  [LAUNCH_START]", "  WRAP_MAC <does not> match"]
    assert "WRAP_MAC &lt;does not&gt; match" in shown._repr_html_()
    shown = answer(InputError("pdh.cert", "2084 bytes", "3 bytes"))
    assert shown.text() == "✗ input cannot be used  [pdh.cert]\n  expected 2084 bytes\n  found 3 bytes"


# -- sequence

LOG = [
    Exchange("guest owner", "hypervisor", "GODH, session"),
    Exchange("hypervisor", "AMD-SP", "LAUNCH_START", Status.SUCCESS, "handle 1"),
    Exchange("guest owner", "guest owner", "compare", Status.BAD_MEASUREMENT, "refuses <it>"),
]
TEXT = """A launch
 1. guest owner -> hypervisor: GODH, session
 2. hypervisor -> AMD-SP: LAUNCH_START  [SUCCESS]  handle 1
 3. guest owner: compare  [BAD_MEASUREMENT (0x0B)]  refuses <it>"""


def test_sequence() -> None:
    shown = sequence(LOG, "A launch")
    assert shown.text() == TEXT
    (svg,) = read(shown._repr_html_()).all("svg")
    words = [text.text() for text in svg.all("text")]
    assert words[:3] == ["guest owner", "hypervisor", "AMD-SP"]
    joined = " ".join(words)
    for part in ("GODH, session", "LAUNCH_START", "✓ SUCCESS: handle 1", "✗ BAD_MEASUREMENT (0x0B): refuses <it>"):
        assert part in joined
    assert svg.all("polygon")[2].attributes["fill"] == palette.BAD
    assert svg.all("polygon")[0].attributes["fill"] == palette.PARTIES["guest owner"]


def test_lifelines_make_room_for_words_of_others() -> None:
    """The hypervisor's line is broken where a message between its neighbours stands on it, and nowhere else."""

    def pieces(message: str) -> list[int]:
        shown = sequence([("guest owner", "AMD-SP", message)], parties=("guest owner", "hypervisor", "AMD-SP"))
        (svg,) = read(shown.html()).all("svg")
        lines = [path.attributes["stroke"] for path in svg.all("path", stroke_dasharray="4 4")]
        return [lines.count(palette.PARTIES[name]) for name in ("guest owner", "hypervisor", "AMD-SP")]

    assert pieces("a word") == [1, 2, 1] and pieces("") == [1, 1, 1]


def test_arrows_point_at_the_receiver() -> None:
    (svg,) = read(sequence([("AMD", "guest owner", "a"), ("guest owner", "AMD", "b")])._repr_html_()).all("svg")
    tips = [float(p.attributes["points"].split(",")[0]) for p in svg.all("polygon")]
    left, right = (float(line.attributes["d"][1:].split()[0]) for line in svg.all("path")[:2])
    assert tips == [right, left]


def test_sequence_takes_other_records() -> None:
    class Entry:
        party, command, status, note = "firmware owner", "INIT", Status.SUCCESS, None

    assert sequence([Entry()]).text() == " 1. firmware owner -> AMD-SP: INIT  [SUCCESS]"
    tuples = [tuple(vars(entry).values()) for entry in LOG]
    assert sequence(tuples, "A launch").text() == TEXT
    assert sequence([("firmware", "hypervisor", "x")]).parties == ["hypervisor", "AMD-SP"]
    fixed = sequence(LOG, parties=["AMD-SP", "hypervisor", "guest owner", "AMD"])
    assert fixed.parties == ["AMD-SP", "hypervisor", "guest owner", "AMD"]
    assert sequence([]).text() == "" and "<svg" in sequence([])._repr_html_()


def test_a_long_sequence_stays_below_the_cap() -> None:
    page = sequence(LOG * 400)._repr_html_()
    assert len(page.encode()) <= 200_000


# -- states

ROWS = [
    ("UNINIT", "INIT", "INIT"),
    ("INIT", "PDH_GEN", "INIT"),
    ("INIT", "LAUNCH_START", "WORKING"),
    ("WORKING", "SHUTDOWN", "UNINIT"),
]


def test_states() -> None:
    shown = state_diagram(ROWS, "INIT", "Platform")
    assert shown.text().splitlines() == [
        "Platform (now: INIT)",
        "  UNINIT",
        "    -> INIT: INIT",
        "  INIT",
        "    stays: PDH_GEN",
        "    -> WORKING: LAUNCH_START",
        "  WORKING",
        "    -> UNINIT: SHUTDOWN",
    ]
    (svg,) = read(shown._repr_html_()).all("svg")
    words = [text.text() for text in svg.all("text")]
    assert words == ["UNINIT", "INIT", "INIT  ◀ now", "stays with", "PDH_GEN", "LAUNCH_START", "WORKING", "SHUTDOWN"]
    assert len(svg.all("polygon")) == 3


def test_states_from_dicts_enums_and_in_a_given_order() -> None:
    from sevref import PlatformState

    dicts = [{"state": PlatformState[a], "command": b, "next": PlatformState[c]} for a, b, c in ROWS]
    assert state_diagram(dicts, PlatformState.INIT, "Platform").text() == state_diagram(ROWS, "INIT", "Platform").text()
    assert state_diagram(ROWS, states=["WORKING", "UNINIT", "INIT"]).states == ["WORKING", "UNINIT", "INIT"]


# -- digests


def test_digest_of() -> None:
    # FIPS 180-2: SHA-256 of "abc"
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    import numpy

    assert digest_of(b"abc") == digest_of(bytearray(b"abc")) == digest_of("abc") == abc
    assert digest_of(numpy.frombuffer(b"abc", "u1")) == abc
    assert digest_of(state_diagram(ROWS)) == digest_of(state_diagram(list(ROWS)))
    assert digest_of(state_diagram(ROWS)) != digest_of(state_diagram(ROWS[1:]))
