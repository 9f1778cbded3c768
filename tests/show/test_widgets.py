"""Panels: what a reader moves and what comes back. Statuses are those of the fact sheets, as literals."""

import hashlib
import re
from typing import Any

import ipywidgets
import pytest

from sevref import SevError, Status, load_chain
from sevref.show import Html, Panel, flip_a_bit, man_in_the_middle, measurement_explorer, panel, secret_explorer
from sevref.show.explore import IMAGE
from sevref.show.scene import Scene
from sevref.status import InputError
from show.page import read
from support import vectors

BAD_MEASUREMENT = "BAD_MEASUREMENT (0x0B)"
BAD_SIGNATURE = "BAD_SIGNATURE (0x0A)"
INVALID_CERTIFICATE = "INVALID_CERTIFICATE (0x06)"
INVALID_GUEST_STATE = "INVALID_GUEST_STATE (0x02)"
POLICY_FAILURE = "POLICY_FAILURE (0x07)"
UNSUPPORTED = "UNSUPPORTED (0x15)"


def words(shown: Panel) -> str:
    """The answer's words as a reader sees them; the same as its text form's first line."""
    page = " ".join(read(shown.value_html).text().split())
    assert " ".join(shown.value_text.splitlines()[0].replace("[", "").replace("]", "").split()) in page
    return page


def move(shown: Panel, **values: Any) -> str:
    shown.reset()
    for name, value in values.items():
        shown.set(name, value)
    return words(shown)


# -- the base


def doubled(values: dict[str, Any]) -> Html:
    if values["n"] == 3:
        raise SevError(Status.INVALID_LENGTH, "n is <three>", "SOME_COMMAND")
    if values["n"] == 4:
        raise InputError("n", "not 4", 4)
    return Html(f"<p>{2 * values['n']}</p>", str(2 * values["n"]))


def controls() -> dict[str, Any]:
    return {
        "n": ipywidgets.IntSlider(1, 0, 10, description="a number"),
        "how": ipywidgets.Dropdown(options=[("Plain", 0), ("Odd", 1)], description="how"),
        "loud": ipywidgets.Checkbox(False, description="loud"),
    }


def test_a_moved_control_changes_the_answer() -> None:
    shown = panel(controls(), doubled, "Doubling", "Try it")
    assert shown.value_text == "2" and "<p>2</p>" in shown.value_html
    shown.set("n", 5)
    assert shown.value_text == "10" and "<p>10</p>" in shown.value_html
    assert shown.values == {"n": 5, "how": 0, "loud": False}
    shown.reset()
    assert shown.value_text == "2"
    with pytest.raises(KeyError):
        shown.set("m", 1)


def test_errors_are_answers() -> None:
    shown = panel(controls(), doubled)
    shown.set("n", 3)
    assert "INVALID_LENGTH (0x04)" in shown.value_html and "n is &lt;three&gt;" in shown.value_html
    assert "SOME_COMMAND" in shown.value_html and "Traceback" not in shown.value_html
    shown.set("n", 4)
    assert "expected not 4" in shown.value_html and "found 4" in shown.value_html
    shown.set("n", 5)
    assert shown.value_text == "10"


def test_html_text_is_taken_as_an_answer() -> None:
    shown = panel(controls(), lambda values: f"<i>{values['n']}</i>")
    assert "<i>1</i>" in shown.value_html


def test_static_is_the_default_case_whatever_was_moved() -> None:
    shown = panel(controls(), doubled, "Doubling")
    before = shown.static()
    shown.set("n", 7)
    assert shown.static().text() == before.text() == "Default case: a number: 1; how: Plain; loud: no\n2"
    assert shown.static()._repr_html_() == before._repr_html_()
    assert "<p>2</p>" in before._repr_html_()


def test_what_a_notebook_stores() -> None:
    shown = panel(controls(), doubled, "Doubling")
    bundle = shown._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == "Doubling: controls that need a kernel; the default case stands below as plain HTML"


# -- rules for every panel

NAMES = ("flip", "middle", "measurement", "secret")


@pytest.fixture(scope="module")
def panels() -> dict[str, Panel]:
    scene = Scene.build_up()
    return {
        "flip": flip_a_bit(scene.chain, roots=scene.owner.roots),
        "middle": man_in_the_middle(),
        "measurement": measurement_explorer(),
        "secret": secret_explorer(),
    }


def inside(widget: Any) -> list[Any]:
    found = [widget]
    for child in getattr(widget, "children", ()):
        found += inside(child)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_no_output_widgets_and_every_control_has_a_label(panels: dict[str, Panel], name: str) -> None:
    widgets = inside(panels[name].widget)
    assert not [w for w in widgets if isinstance(w, ipywidgets.Output)]
    controls = [w for w in widgets if not isinstance(w, ipywidgets.Box | ipywidgets.HTML)]
    assert controls and all(w.description and w.tooltip for w in controls)
    assert all(w.layout.max_width == "calc(100% - 4px)" for w in controls)


@pytest.mark.parametrize("name", NAMES)
def test_the_default_case_needs_no_kernel(panels: dict[str, Panel], name: str) -> None:
    shown = panels[name]
    shown.reset()
    page = shown.static()._repr_html_()
    read(page)
    assert len(page.encode()) <= 200_000
    assert page == shown.static()._repr_html_()
    assert shown.value_text in shown.static().text()


def test_an_answer_depends_on_the_controls_only() -> None:
    a, b = man_in_the_middle(), man_in_the_middle()
    move(a, target="WRAP_TK")
    move(a, target="nothing")
    assert move(a, target="NONCE", byte=3) == move(b, target="NONCE", byte=3)


# -- flip a bit (sheet 50, 2.9 and 2.11)


def fails(shown: Panel) -> list[str]:
    """The checks that fail, as "subject signer status"."""
    tables = read(shown.value_html).all("table")
    rows = [[cell.text() for cell in row.all("td")] for row in tables[0].all("tr")] if tables else []
    return [f"{row[0]} {row[1]} {row[3].strip('✗ ')}".replace("  ", " ") for row in rows[1:]]


@pytest.mark.parametrize(
    ("certificate", "offset", "expected"),
    [
        # a key's X coordinate: the signatures are wrong, and the key can no longer sign
        ("pek", 0x020, [f"PEK OCA {BAD_SIGNATURE}", f"PEK CEK {BAD_SIGNATURE}", f"PDH PEK {INVALID_CERTIFICATE}"]),
        # covered by the signatures, read by no rule
        ("pek", 0x005, [f"PEK OCA {BAD_SIGNATURE}", f"PEK CEK {BAD_SIGNATURE}"]),
        ("pek", 0x200, [f"PEK OCA {BAD_SIGNATURE}", f"PEK CEK {BAD_SIGNATURE}"]),
        ("pdh", 0x006, [f"PDH PEK {BAD_SIGNATURE}"]),
        ("cek", 0x004, [f"CEK ASK {BAD_SIGNATURE}"]),
        # one of two signatures
        ("pek", 0x41C, [f"PEK OCA {BAD_SIGNATURE}"]),
        ("pek", 0x624, [f"PEK CEK {BAD_SIGNATURE}"]),
        # the padding of r: the number is too large
        ("pdh", 0x450, [f"PDH PEK {BAD_SIGNATURE}"]),
        # a slot that names another key's usage belongs to nobody
        ("pdh", 0x414, [f"PDH PEK {INVALID_CERTIFICATE}"]),
        # an unused slot with an algorithm is malformed
        ("pdh", 0x620, [f"PDH PEK {BAD_SIGNATURE}"]),
        # bytes behind r and s, data of an unused slot: nobody reads them
        ("pdh", 0x4AC, []),
        ("pdh", 0x700, []),
    ],
)
def test_flip_a_bit(panels: dict[str, Panel], certificate: str, offset: int, expected: list[str]) -> None:
    shown = panels["flip"]
    said = move(shown, certificate=certificate, offset=offset, bit=0)
    assert fails(shown) == expected
    if expected:
        assert f"{len(expected)} of 17 checks fail" in said
    else:
        assert "all 17 checks pass" in said
    assert f"byte 0x{offset:03X} of the {certificate.upper()}" in said


def test_flip_a_bit_of_a_self_signed_owner(panels: dict[str, Panel]) -> None:
    move(panels["flip"], certificate="oca", offset=0x20)
    # sheet 50: in a self-signed OCA a damaged key is found before its signature
    assert f"OCA OCA {INVALID_CERTIFICATE}" in fails(panels["flip"])
    assert f"PEK OCA {INVALID_CERTIFICATE}" in fails(panels["flip"])


def test_flip_a_bit_of_the_root(panels: dict[str, Panel]) -> None:
    move(panels["flip"], certificate="ark", offset=0x300)
    found = fails(panels["flip"])
    assert f"ARK ARK {BAD_SIGNATURE}" in found and f"ARK {INVALID_CERTIFICATE}" in found
    # a size field that fits no certificate: the file cannot be read at all
    said = move(panels["flip"], certificate="ark", offset=0x39, bit=0)
    assert "Traceback" not in said and ("cannot be used" in said or "INVALID_CERTIFICATE" in said)


@pytest.mark.parametrize(
    ("certificate", "offset", "size"),
    [("ark", 1600, 1600), ("pek", 2084, 2084), ("pek", 5000, 2084), ("pek", -1, 2084)],  # an ARK of 4096 bits has 1600
)
def test_an_offset_outside_is_an_answer(panels: dict[str, Panel], certificate: str, offset: int, size: int) -> None:
    said = move(panels["flip"], certificate=certificate, offset=offset)
    assert "input cannot be used" in said and f"expected 0 to {size - 1}found {offset}" in said
    assert "byte 0x" in move(panels["flip"], certificate=certificate, offset=size - 1)


def test_nothing_flipped(panels: dict[str, Panel]) -> None:
    assert "all 17 checks pass nothing was changed" in move(panels["flip"], flip=False)


def test_flip_a_bit_of_a_real_chain() -> None:
    shown = flip_a_bit(load_chain(vectors("certs", "naples")))
    assert "checks pass" in move(shown, flip=False)
    move(shown, certificate="cek", offset=0x500)
    assert fails(shown) == [f"CEK ASK {BAD_SIGNATURE}"]


# -- the man in the middle (sheet 30, 10.1)


@pytest.mark.parametrize(
    ("target", "byte", "bit", "status"),
    [
        ("NONCE", 0, 0, BAD_MEASUREMENT),
        ("NONCE", 15, 7, BAD_MEASUREMENT),
        ("WRAP_TK", 0, 0, BAD_MEASUREMENT),
        ("WRAP_TK", 31, 3, BAD_MEASUREMENT),
        ("WRAP_IV", 0, 0, BAD_MEASUREMENT),
        ("WRAP_MAC", 31, 7, BAD_MEASUREMENT),
        ("POLICY_MAC", 0, 1, BAD_MEASUREMENT),
        ("POLICY", 0, 0, BAD_MEASUREMENT),  # debugging allowed
        ("POLICY", 0, 6, BAD_MEASUREMENT),  # a reserved bit
        ("POLICY", 2, 3, BAD_MEASUREMENT),  # a newer API
        ("GODH: version", 0, 0, INVALID_CERTIFICATE),
        ("GODH: usage", 0, 0, INVALID_CERTIFICATE),
        ("GODH: algorithm", 0, 0, INVALID_CERTIFICATE),
        ("GODH: QX", 0, 0, INVALID_CERTIFICATE),
        ("GODH: QY", 47, 7, INVALID_CERTIFICATE),
        ("GODH: another key", 0, 0, BAD_MEASUREMENT),
    ],
)
def test_what_the_firmware_notices(panels: dict[str, Panel], target: str, byte: int, bit: int, status: str) -> None:
    said = move(panels["middle"], target=target, byte=byte, bit=bit)
    assert said.startswith(f"✗ {status} LAUNCH_START")
    assert "the guest owner accepts" not in said


@pytest.mark.parametrize(
    "target", ["nothing", "GODH: API version", "GODH: reserved bytes", "GODH: signature slots", "GODH: -Q for Q"]
)
def test_what_nobody_notices_and_nothing_rests_on(panels: dict[str, Panel], target: str) -> None:
    said = move(panels["middle"], target=target)
    assert said.startswith("✓ LAUNCH_START: SUCCESS")
    assert "✓ the guest owner accepts the measurement" in said


def test_the_attackers_own_session_is_noticed_by_the_owner(panels: dict[str, Panel]) -> None:
    said = move(panels["middle"], target="attacker's GODH and session")
    assert said.startswith("✓ LAUNCH_START: SUCCESS")
    assert f"✗ {BAD_MEASUREMENT} guest owner" in said


def test_which_mac_catches_what(panels: dict[str, Panel]) -> None:
    assert "WRAP_MAC" in move(panels["middle"], target="NONCE").split("The status")[0]
    assert "POLICY_MAC" in move(panels["middle"], target="WRAP_IV").split("The status")[0]


def test_the_changed_byte_is_shown(panels: dict[str, Panel]) -> None:
    move(panels["middle"], target="WRAP_IV", byte=2, bit=4)
    assert "0x32 in wrap_iv" in panels["middle"].value_text
    assert len(read(panels["middle"].value_html).all("mark")) == 1
    move(panels["middle"], target="POLICY", byte=0, bit=2)
    assert "0x00000005 (NODBG ES, API >= 0.0)" in panels["middle"].value_text


# -- the measurement (sheet 20, 3.1 and 3.5)


def test_an_honest_launch_is_accepted(panels: dict[str, Panel]) -> None:
    said = move(panels["measurement"])
    assert said.startswith("✓ the guest owner accepts the measurement")
    assert hashlib.sha256(IMAGE).hexdigest() in said
    assert "What the owner puts under the HMAC 56 bytes" in said


@pytest.mark.parametrize("offset", [0, 0x1FFF])
def test_a_changed_image(panels: dict[str, Panel], offset: int) -> None:
    said = move(panels["measurement"], change_image=True, offset=offset)
    assert said.startswith(f"✗ {BAD_MEASUREMENT} guest owner")
    changed = bytearray(IMAGE)
    changed[offset] ^= 1
    assert hashlib.sha256(changed).hexdigest() in said
    assert hashlib.sha256(IMAGE).hexdigest() in said


@pytest.mark.parametrize(
    ("moves", "status", "who"),
    [
        ({"change_nonce": True}, BAD_MEASUREMENT, "guest owner"),
        ({"claimed": "0.17 build 48"}, BAD_MEASUREMENT, "guest owner"),
        ({"claimed": "0.16 build 5"}, BAD_MEASUREMENT, "guest owner"),
        ({"firmware": "0.17 build 48", "claimed": "0.24 build 15"}, BAD_MEASUREMENT, "guest owner"),
        ({"given": 3}, BAD_MEASUREMENT, "LAUNCH_START"),
        ({"policy": 0}, POLICY_FAILURE, "guest owner"),
        ({"policy": 0x19000001}, POLICY_FAILURE, "guest owner"),
        ({"policy": 5}, UNSUPPORTED, "LAUNCH_START"),
    ],
)
def test_what_is_refused_and_by_whom(panels: dict[str, Panel], moves: dict[str, Any], status: str, who: str) -> None:
    assert move(panels["measurement"], **moves).startswith(f"✗ {status} {who}")


@pytest.mark.parametrize("moves", [{"policy": 3}, {"policy": 9, "given": 9}, {"firmware": "0.17 build 48"}])
def test_other_honest_launches(panels: dict[str, Panel], moves: dict[str, Any]) -> None:
    assert move(panels["measurement"], **moves).startswith("✓ the guest owner accepts")


def test_firmware_before_0_17_measures_52_bytes(panels: dict[str, Panel]) -> None:
    said = move(panels["measurement"], firmware="0.16 build 5")
    assert said.startswith("✓ the guest owner accepts")
    assert "What the owner puts under the HMAC 52 bytes" in said


def test_every_input_of_the_measurement_changes_it(panels: dict[str, Panel]) -> None:
    def measured(**moves: Any) -> str:
        move(panels["measurement"], **moves)
        (line,) = [r for r in panels["measurement"].value_text.splitlines() if r.startswith("launch measurement")]
        return re.findall(r"[0-9a-f]{64}", line)[1]

    found = {measured(), measured(change_image=True), measured(policy=3), measured(firmware="0.17 build 48")}
    assert len(found) == 4


# -- the secret (sheet 20, 3.6)


@pytest.mark.parametrize("case", ["as intended", "the same packet twice"])
def test_the_secret_reaches_the_guest_and_only_the_guest(panels: dict[str, Panel], case: str) -> None:
    said = move(panels["secret"], case=case)
    assert said.startswith("✓ LAUNCH_SECRET: SUCCESS")
    guest, host = (row.all("td")[1].text() for row in read(panels["secret"].value_html).all("table")[0].all("tr")[1:])
    secret = b"disk key of the walkthrough".hex()
    assert secret in guest and secret not in host and guest != host
    assert len(guest) == len(host) == 2 * 80
    calls = panels["secret"].value_text.count("LAUNCH_SECRET  [SUCCESS]")
    assert calls == (2 if case == "the same packet twice" else 1)


@pytest.mark.parametrize(
    ("case", "byte", "status", "who"),
    [
        ("flip a bit of FLAGS", 0, BAD_MEASUREMENT, "LAUNCH_SECRET"),
        ("flip a bit of FLAGS", 3, BAD_MEASUREMENT, "LAUNCH_SECRET"),
        ("flip a bit of IV", 15, BAD_MEASUREMENT, "LAUNCH_SECRET"),
        ("flip a bit of MAC", 31, BAD_MEASUREMENT, "LAUNCH_SECRET"),
        ("flip a bit of the payload", 20, BAD_MEASUREMENT, "LAUNCH_SECRET"),
        ("replay into a second launch", 0, BAD_MEASUREMENT, "LAUNCH_SECRET"),
        ("before LAUNCH_MEASURE", 0, INVALID_GUEST_STATE, "LAUNCH_SECRET"),
        ("after LAUNCH_FINISH", 0, INVALID_GUEST_STATE, "LAUNCH_SECRET"),
        ("another image was loaded", 0, BAD_MEASUREMENT, "guest owner"),
    ],
)
def test_what_stops_a_secret(panels: dict[str, Panel], case: str, byte: int, status: str, who: str) -> None:
    said = move(panels["secret"], byte=byte, case=case)
    assert said.startswith(f"✗ {status} {who}")
    assert b"disk key".hex() not in said


def test_a_byte_outside_is_an_answer(panels: dict[str, Panel]) -> None:
    said = move(panels["secret"], case="flip a bit of FLAGS", byte=9)
    assert "input cannot be used" in said and "0 to 3 in this case" in said
