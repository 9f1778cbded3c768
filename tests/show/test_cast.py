"""Parties, keys and certificates as tables."""

import re

import pytest

from sevref.certs import Algo, Chain, SevCertificate, Usage, new_certificate
from sevref.crypto import PrivateKey
from sevref.show import cast, palette, sequence
from sevref.show.legend import legend
from show.page import read


def test_every_party_and_every_key_of_the_palette_is_introduced():
    assert [str(row["party"]) for row in cast.party_table().rows] == [
        "AMD", "platform owner", "guest owner", "hypervisor", "AMD-SP", "guest",
    ]  # fmt: skip
    assert {str(row["party"]) for row in cast.party_table().rows} == set(palette.PARTIES)
    assert [str(row["key"]) for row in cast.key_table().rows] == list(palette.KEYS)


def test_names_choose_and_order_the_rows():
    assert [str(row["party"]) for row in cast.party_table("firmware", "AMD").rows] == ["AMD-SP", "AMD"]
    assert [str(row["key"]) for row in cast.key_table("PDH", "CEK").rows] == ["PDH", "CEK"]


def test_a_key_has_its_colour_and_its_full_name():
    html = cast.key("TIK").html()
    assert "#0C8171" in html and "transport integrity key" in html and ">TIK<" in html
    assert "#09833C" in cast.party("guest_owner").html() and str(cast.party("guest_owner")) == "guest owner"
    assert "title" not in cast.key("XYZ").html()


def test_the_legend_has_the_colours_that_the_pictures_use():
    """Literals: what the drawings are made with is compared with the same ones elsewhere."""
    rows = {(str(row["sign"]), row["where"]): row["sign"].html() for row in legend().rows}
    assert "#09833C" in rows["arrow", "sequence"]  # the guest owner's
    assert "#CE2930" in rows["red arrow, ✗, a status", "sequence"] and "#CE2930" in rows["red arrow, ✗", "chain"]
    assert "dashed #0175C1" in rows["dashed line", "sequence"]  # the AMD-SP's
    assert "#2C67DD" in rows["name in its colour", "all"]  # the PEK's
    assert "dashed #697280" in rows["dashed grey arrow, ○", "chain"]
    drawn = sequence([("guest owner", "hypervisor", "GODH"), ("hypervisor", "AMD-SP", "INIT", 1)]).html()
    assert 'stroke="#09833C"' in drawn and 'stroke="#CE2930"' in drawn
    assert re.search('stroke="#0175C1"[^>]*stroke-dasharray', drawn)


def test_every_sign_has_words_and_a_meaning():
    for row in legend().rows:
        assert str(row["sign"]).strip() and row["meaning"]
        assert str(row["sign"]) in read(row["sign"].html()).text()


def test_a_fingerprint_is_its_hex():
    shown = cast.fingerprint(bytes.fromhex("00ff10"))
    assert str(shown) == "00ff10" and ">00ff10<" in shown.html() and "min-width" in shown.html()


@pytest.mark.parametrize(
    "name, kind, maker",
    [
        ("ARK", "RSA 4096 (Naples: 2048)", "AMD"),
        ("CEK", "ECDSA P-384", "AMD-SP"),
        ("PDH", "ECDH P-384", "AMD-SP"),
        ("GODH", "ECDH P-384", "guest owner"),
        ("KIK", "HMAC-SHA-256", "both ends"),
        ("VEK", "AES memory key", "AMD-SP"),
    ],
)
def test_facts_of_sheet_00(name: str, kind: str, maker: str):
    (row,) = cast.key_table(name).rows
    assert (row["kind"], str(row["made by"])) == (kind, maker)


def _pek() -> SevCertificate:
    return new_certificate(Usage.PEK, Algo.ECDSA_SHA256, PrivateKey(5).public, (0, 24))


def test_slots_are_named_by_the_key_that_signed():
    cert = _pek().replace(sig1_usage=0x1004, sig1_algo=2, sig2_usage=0x1001, sig2_algo=2)
    (row,) = cast.certificate_table(Chain(pek=cert)).rows
    shown = {name: str(value) for name, value in row.items()}
    assert shown == {"certificate": "PEK", "API": "0.24", "algorithm": "ECDSA_SHA256", "slot 1": "CEK", "slot 2": "OCA"}
    (row,) = cast.certificate_table(Chain(pek=_pek())).rows
    assert (row["slot 1"], row["slot 2"]) == ("empty", "empty")


def test_undefined_codes_are_shown_as_numbers():
    cert = _pek().replace(sig1_usage=0x1234, sig1_algo=2)
    (row,) = cast.certificate_table(Chain(pek=cert.replace(pubkey_algo=0x77, pubkey=bytes(1028)))).rows
    assert (str(row["slot 1"]), row["algorithm"]) == ("0x1234", "0x77")
