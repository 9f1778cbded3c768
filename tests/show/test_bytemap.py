"""Byte maps: every byte once, coloured by its field, long runs folded, secrets masked."""

import functools
import itertools
import re

import pytest

from sevref.certs import Algo, SevCertificate, Usage, new_certificate, sign_certificate
from sevref.crypto import PrivateKey
from sevref.layout import Layout, raw, reserved, u32
from sevref.show import byte_map, palette
from sevref.show.html import LIMIT
from sevref.status import InputError
from sevref.transport import Session, TransportKeys
from show.page import Element, hex_bytes, read
from show.strip import lines, stripped


class Sample(Layout, size=0x60, register=False):
    number = u32(0x00, "a number")
    name = raw(0x04, 8, 'a name <of> & "letters"')
    gap = reserved(0x0C, 68)
    key = raw(0x50, 16, "a key", secret=True)


BYTES = bytes(range(1, 13)) + bytes(68) + bytes(range(0xA0, 0xB0))
SAMPLE = Sample.parse(BYTES)
SESSION = Session.parse(bytes(range(128)))


@functools.cache
def certificate() -> SevCertificate:
    cert = new_certificate(Usage.PDH, Algo.ECDH_SHA256, PrivateKey(7).public, (0, 24))
    sign_certificate(cert, PrivateKey(5), Usage.PEK, Algo.ECDSA_SHA256)
    return cert


def dump(html: str) -> Element:
    (found,) = read(html).all("div", role="group")
    return found


def test_every_byte_once_and_in_order() -> None:
    assert hex_bytes(dump(byte_map(SESSION)._repr_html_())) == [f"{i:02x}" for i in range(128)]


@pytest.mark.parametrize("fold", [True, False])
def test_every_byte_of_a_certificate_once(fold: bool) -> None:
    cert = certificate()
    page = byte_map(cert, fold=fold)._repr_html_()
    assert hex_bytes(dump(page)) == [f"{byte:02x}" for byte in cert.pack()]
    assert len(dump(page).all("details")) == (3 if fold else 0)  # key filler, slot 1 filler, slot 2
    assert len(page.encode()) < 60_000 if fold else LIMIT


def test_a_folded_certificate_is_short() -> None:
    shown = dump(byte_map(certificate())._repr_html_())
    open_rows = [pre.text().count("\n") + 1 for pre in shown.all("pre") if "tabindex" not in pre.attributes]
    assert sum(open_rows) < 40
    words = [summary.text() for summary in shown.all("summary")]
    assert words[0] == "00b0-040f: 864 bytes of pubkey.filler, all zero"


def test_the_inside_of_long_numbers_is_folded() -> None:
    shown = dump(byte_map([("modulus", bytes(range(1, 256)) * 2 + b"\x01\x02", "RSA")])._repr_html_())
    (fold,) = shown.all("details")
    assert fold.all("summary")[0].text() == "0020-01df: 448 bytes of modulus"
    assert len(hex_bytes(shown)) == 512


def test_each_field_has_one_colour_and_neighbours_differ() -> None:
    shown = dump(byte_map(SESSION)._repr_html_())
    colours: dict[str, set[str]] = {}
    for run in shown.all("span"):
        if run.style.get("padding") == "0 3.6px":
            colours.setdefault(run.attributes["title"].split(",")[0], set()).add(run.style["background"])
    assert list(colours) == ["nonce", "wrap_tk", "wrap_iv", "wrap_mac", "policy_mac"]
    assert all(len(found) == 1 for found in colours.values())
    order = [found.pop() for found in colours.values()]
    assert all(a != b for a, b in itertools.pairwise(order))


def test_reserved_bytes_stay_plain() -> None:
    runs = [
        s for s in dump(byte_map(SAMPLE)._repr_html_()).all("span") if s.attributes.get("title", "").startswith("gap")
    ]
    assert runs and all("background" not in run.style for run in runs)


def test_colours_from_the_palette_by_name() -> None:
    page = byte_map(SESSION, colours={"nonce": palette.key("TIK")})._repr_html_()
    runs = [span for span in dump(page).all("span") if span.attributes.get("title", "").startswith("nonce")]
    assert all(palette.KEYS["TIK"] in run.style["border-bottom"] for run in runs)


def test_the_table_explains_every_field() -> None:
    (table,) = read(byte_map(SAMPLE)._repr_html_()).all("table")
    rows = [[cell.text() for cell in row.all("td")] for row in table.all("tr")][1:]
    assert rows == [
        ["number", "0x000", "4", "0x4030201", "a number"],
        ["name", "0x004", "8", "05060708090a0b0c", 'a name <of> & "letters"'],
        ["gap", "0x00C", "68", "all zero", "reserved, zero"],
        ["key", "0x050", "16", "(secret)", "a key"],
    ]


def test_secrets_are_masked_everywhere() -> None:
    keys = TransportKeys(tek=bytes(range(0xA0, 0xB0)), tik=bytes(range(0xC0, 0xD0)))
    for shown in (byte_map(keys, diff=bytes(32)), byte_map(SESSION, secret=["nonce"]), byte_map(SAMPLE)):
        everything = shown._repr_html_() + shown.text() + repr(shown)
        assert "••" in everything
        assert not re.search(r"\b(a1|c1) ?(a2|c2)\b", everything)
    masked = byte_map(SESSION, secret=["nonce"])
    assert hex_bytes(dump(masked._repr_html_()))[:17] == ["••"] * 16 + ["10"]
    assert "00 01 02" not in masked.text()
    zero = byte_map([("k", bytes(256), "")], secret=["k"])
    assert "zero" not in zero.text() + zero._repr_html_()


def test_differences_are_marked_and_named() -> None:
    other = bytearray(SESSION.pack())
    other[0x31] ^= 0x80
    shown = byte_map(SESSION, diff=bytes(other))
    (mark,) = read(shown._repr_html_()).all("mark")
    assert (mark.text(), mark.attributes["title"]) == ("31", "differs at 0x31")
    assert shown.changed == [0x31]
    assert "0x31 in wrap_iv: b1 -> 31" in shown.text()
    assert "0x31 in wrap_iv: b1 -> 31" in read(shown._repr_html_()).text()
    assert [line[:6] for line in shown.text().splitlines() if "*" in line[:6]] == ["0x30* "]


def test_a_difference_is_never_folded_away() -> None:
    cert = certificate()
    other = bytearray(cert.pack())
    other[0x300] = 1
    shown = dump(byte_map(cert, diff=bytes(other))._repr_html_())
    (mark,) = shown.all("mark")
    assert all(mark not in fold.all("mark") for fold in shown.all("details"))
    assert hex_bytes(shown) == [f"{byte:02x}" for byte in cert.pack()]


def test_many_differences_in_a_row_are_folded_and_counted() -> None:
    """A signature that was not there before: 32 rows, of which the first and the last two stay."""
    new, old = bytes(range(1, 256)) * 2 + b"\1\2", bytearray(512)
    old[200] = new[200]
    shown = byte_map([("sig", new, "a signature"), ("end", bytes(16), "")], diff=bytes(old) + bytes(16))
    (fold,) = dump(shown._repr_html_()).all("details")
    assert fold.all("summary")[0].text() == "0020-01df: 448 bytes of sig, 447 differ"
    assert [line[:7] for line in fold.text(("summary",)).splitlines()[:2]] == ["0020* 2", "0030* 3"]
    assert shown.text().splitlines()[-2:] == ["511 bytes differ (*):", "  0x0 in sig: 511 of its 512 bytes"]


def test_zeros_that_differ_keep_rows_in_sight() -> None:
    """Filler is folded whole, but not where something stood before."""
    parts = [("a", bytes(256), ""), ("b", b"\1" * 16, "")]
    (fold,) = dump(byte_map(parts, diff=b"\2" * 256 + b"\1" * 16)._repr_html_()).all("summary")
    assert fold.text() == "0020-00df: 192 bytes of a, all zero, 192 differ"
    (fold,) = dump(byte_map(parts)._repr_html_()).all("summary")
    assert fold.text() == "0000-00ff: 256 bytes of a, all zero"


def test_differences_in_many_fields_end_in_a_count() -> None:
    parts = [(f"field{i}", b"\1", "") for i in range(20)]
    lines = byte_map(parts, diff=bytes(20)).text().splitlines()
    assert lines[-12] == "20 bytes differ (*):" and lines[-11] == "  0x0 in field0: 00 -> 01"
    assert lines[-2:] == ["  0x9 in field9: 00 -> 01", "  ... and 10 lines more"]


def test_offsets_start_where_the_bytes_begin() -> None:
    shown = byte_map([("a", bytes(range(20)), "first"), ("b", b"\7", "second")], start=0xFFC0, diff=bytes(21))
    lines = shown.text().splitlines()
    assert lines[1].startswith("0xFFC0* 00 01") and lines[2].startswith("0xFFD0* 10 11")
    assert "  0xFFD4 in b: 00 -> 07" in lines
    page = read(shown._repr_html_())
    assert [pre.text().splitlines()[1][:10] for pre in page.all("pre")] == ["ffd0  10 1"]
    assert [row.all("td")[1].text() for row in page.all("tr")[1:]] == ["0xFFC0", "0xFFD4"]
    assert "b, 1 byte at 0xFFD4" in [span.attributes.get("title") for span in page.all("span")]
    assert "differs at 0xFFD4" in [mark.attributes["title"] for mark in page.all("mark")]
    long = byte_map(bytes(range(1, 200)), start=0x12345)
    assert "12365-123f4: 144 bytes of data" in long.html()


def test_fields_that_are_revealed_are_not_folded() -> None:
    cert = certificate()
    folds = dump(byte_map(cert, reveal=["pubkey", "sig2"])._repr_html_()).all("summary")
    assert [fold.text().split(" of ")[1] for fold in folds] == ["sig1.filler, all zero"]
    assert "more bytes" not in byte_map(cert, reveal=["pubkey", "sig1.filler", "sig2"]).text()
    with pytest.raises(InputError, match="reveal: expected names of fields, found sig3"):
        byte_map(cert, reveal=["sig3", "sig2"])


def test_a_dump_remains_without_styles() -> None:
    """The bytes at their offsets and the names of the fields that begin in each row, in columns."""
    shown = stripped(byte_map(SAMPLE, "A sample")._repr_html_())
    assert lines(shown)[1:8] == [
        "0000  01 02 03 04 05 06 07 08  09 0a 0b 0c 00 00 00 00  number  name  gap",
        "0010-004f: 64 bytes of gap, all zero",
        *(f"00{i}0  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00" for i in (1, 2, 3, 4)),
        "0050  •• •• •• •• •• •• •• ••  •• •• •• •• •• •• •• ••  key",
    ]
    short = lines(stripped(byte_map([("a", bytes(16), ""), ("b", b"\1\2\3", "")])._repr_html_()))
    assert short[1].index("a", 40) == short[2].index("b", 40) == 56


def test_without_a_table_the_text_form_names_the_fields() -> None:
    shown = byte_map(SAMPLE, fields=False)
    page = read(shown._repr_html_())
    assert not page.all("table") and page.all("details")[-1].text() == "as text" + shown.text()


def test_other_lengths_differ_too() -> None:
    shown = byte_map(b"\1\2", diff=b"\1\2\3")
    assert shown.changed == [2] and "0x2: 1 byte missing here" in shown.text()
    shown = byte_map(b"\1\2\3", diff=b"\1\2")
    assert "0x2 in data: missing -> 03" in shown.text()
    assert "no byte differs" in byte_map(b"\1", diff=b"\1").text()


def test_text() -> None:
    assert byte_map(SAMPLE, "A sample").text().splitlines() == [
        "A sample: 96 bytes",
        "0x00  01 02 03 04                                      number = 0x4030201: a number",
        '0x04  05 06 07 08 09 0a 0b 0c                          name: a name <of> & "letters"',
        "0x0C  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  gap (68 bytes): reserved, zero",
        *(f"0x{i:02X}  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00" for i in (0x1C, 0x2C, 0x3C)),
        "0x4C  00 00 00 00",
        "0x50  •• •• •• •• •• •• •• •• •• •• •• •• •• •• •• ••  key = (secret): a key",
    ]


def test_text_of_a_certificate_is_short_and_loses_nothing() -> None:
    text = byte_map(certificate()).text()
    assert len(text.splitlines()) < 60
    assert "... 848 more bytes, all zero" in text
    assert "0x008  03 10 00 00" in text and "pubkey_usage = 0x1003 PDH" in text
    assert all(len(line) < 170 for line in text.splitlines())


def test_kinds_of_sources() -> None:
    assert byte_map((BYTES, Sample)).title == "Sample"
    assert byte_map(Sample).text().startswith("Sample (all zero): 96 bytes")
    assert "data: bytes" in byte_map(b"\x55").text()
    parts = byte_map([("i", b"\1\0\0\0", "counter"), ("label", b"sev-kek", "ASCII"), ("none", b"", "empty")])
    assert [row.name for row in parts.rows] == ["i", "label"]
    assert parts.rows[1].offset == 4


def test_huge_data_is_cut_below_the_cap() -> None:
    for data in (bytes(range(256)) * 4096, bytes(1 << 20)):
        page = byte_map(data)._repr_html_()
        assert len(page.encode()) <= LIMIT == 200_000
        assert "more bytes are not drawn" in page
        read(page)


class Bits(Layout, size=4, register=False):
    a = u32(0, "x" * 3000)


def test_a_thousand_fields_stay_below_the_cap() -> None:
    parts = [(f"field{i}", b"\1", "m" * 200) for i in range(3000)]
    page = byte_map(parts)._repr_html_()
    assert len(page.encode()) <= LIMIT
    read(page)
