"""The cast of the walkthrough: parties, keys and certificates in their colours."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from sevref import resources
from sevref.certs import Algo, Chain, SevCertificate, Usage
from sevref.show import palette
from sevref.show.html import MONO, Html, chip, element
from sevref.show.table import Table, table

#: name, what it wants, what it holds, whom it trusts
_PARTIES = (
    ("AMD", "its chips to be recognised as genuine", "private keys of ARK and ASK; public CEKs by chip id", "-"),
    ("platform owner", "to administer its machines as one domain", "private key of the OCA", "AMD"),
    (
        "guest owner",
        "its guest to run unmodified and unread",
        "GODH, TEK, TIK, and the secret that it releases at the end",
        "AMD's root and the firmware; not the hypervisor",
    ),
    (
        "hypervisor",
        "to launch, run, move and debug guests",
        "no key; sees every buffer and every ciphertext; may change, drop, replay, reorder",
        "nobody trusts it",
    ),
    (
        "AMD-SP",
        "to enforce the rules: it is the chip's security processor with the SEV firmware",
        "the chip's secret, CEK, PEK, PDH, the self-owned OCA, a VEK per guest",
        "its fuses",
    ),
)
#: name, full name, kind, who makes it, how long it lives, what it is for
_KEYS = (
    ("ARK", "AMD root key", "RSA 4096 (Naples: 2048)", "AMD", "for good", "signs itself and the ASK"),
    ("ASK", "AMD SEV signing key", "RSA 4096 (Naples: 2048)", "AMD", "one product line", "signs each chip's CEK"),
    ("CEK", "chip endorsement key", "ECDSA P-384", "AMD-SP", "the chip's: derived from fuses", "signs the PEK"),
    (
        *("OCA", "owner certificate authority", "ECDSA P-384 or RSA", "platform owner"),
        *("until re-owned", "signs itself and the PEK; the AMD-SP makes one while nobody owns the platform"),
    ),
    (
        *("PEK", "platform endorsement key", "ECDSA P-384", "AMD-SP"),
        *("until PEK_GEN or reset", "signs the PDH and attestation reports"),
    ),
    (
        *("PDH", "platform Diffie-Hellman key", "ECDH P-384", "AMD-SP"),
        *("until PDH_GEN or a change of owner", "key agreement with guest owners and other platforms"),
    ),
    (
        *("GODH", "guest owner's Diffie-Hellman key", "ECDH P-384", "guest owner"),
        *("one launch", "the owner's side of that agreement"),
    ),
    (
        *("KEK", "key encryption key", "AES-128", "both ends"),
        *("one session", "encrypts TEK and TIK on their way; both ends derive it"),
    ),
    (
        *("KIK", "key integrity key", "HMAC-SHA-256", "both ends"),
        *("one session", "authenticates that encryption; both ends derive it"),
    ),
    ("TEK", "transport encryption key", "AES-128", "guest owner", "one session", "encrypts packets to the firmware"),
    (
        *("TIK", "transport integrity key", "HMAC-SHA-256", "guest owner"),
        *("one session", "authenticates packets, the policy and the launch measurement"),
    ),
    (
        *("VEK", "VM encryption key", "AES memory key", "AMD-SP"),
        *("the guest on this platform", "encrypts the guest's memory; never leaves the chip"),
    ),
)


def party(name: str) -> Html:
    """A party's name in its colour, for a cell of a table."""
    shown = palette.party_name(name)
    return Html(chip(shown, palette.party(shown)), shown)


def key(name: str) -> Html:
    """A key's abbreviation in its colour; hovering shows the full name."""
    return Html(chip(name, palette.key(name), next((row[1] for row in _KEYS if row[0] == name), "")), name)


def fingerprint(data: bytes) -> Html:
    """A hash or a key's number as hex that keeps a readable width on a narrow page, for a cell of a table."""
    style = f"{MONO};font-size:12px;overflow-wrap:anywhere;background:transparent;color:inherit;padding:0"
    style += ";display:inline-block;min-width:32ch;max-width:48ch"
    return Html(element("code", data.hex(), style), data.hex())


def party_table(*names: str, here: Mapping[str, tuple[str, str]] | None = None) -> Table:
    """Who is on stage: all parties, or those named, in that order.

    With ``here`` (party -> what it holds, what it does) the table says what each does in one notebook; two parties of a
    kind have a letter, as in "AMD-SP A".
    """
    if here is not None:
        told = [{"party": party(name), "holds": holds, "here": does} for name, (holds, does) in here.items()]
        return table(told, "Who is on stage")
    rows = [dict(zip(("party", "wants", "holds", "trusts"), row, strict=True)) for row in _PARTIES]
    chosen = [row for name in names for row in rows if row["party"] == palette.party_name(name)] if names else rows
    return table([{**row, "party": party(row["party"])} for row in chosen], "Who is on stage")


def key_table(*names: str) -> Table:
    """The keys: all of them, or those named, in that order."""
    columns = ("key", "name", "kind", "made by", "lives", "what it is for")
    rows = [dict(zip(columns, row, strict=True)) for row in _KEYS]
    chosen = [row for name in names for row in rows if row["key"] == name] if names else rows
    shown: list[dict[str, Any]] = [
        {
            **row,
            "key": key(row["key"]),
            "made by": party(row["made by"]) if row["made by"] in palette.PARTIES else row["made by"],
        }
        for row in chosen
    ]
    return table(shown, "The keys")


def glossary_table() -> Table:
    """The words of the walkthrough: the list that the reading site shows as its glossary."""
    words = tomllib.loads(resources.data_path("site", "glossary.toml").read_text(encoding="utf-8"))
    link = re.compile(r" See \[[^]]*\]\([^)]*\)\.")  # to a page of the site
    return table([{"word": word, "meaning": link.sub("", meaning)} for word, meaning in words.items()], "Glossary")


def certificate_table(chain: Chain, title: str = "") -> Table:
    """The SEV certificates of a chain: API version, algorithm, and by whose key each slot says it is signed."""
    rows = []
    for place, cert in chain.items():
        if isinstance(cert, SevCertificate):
            signers = ["empty" if slot.free else _named(Usage, slot.usage) for slot in cert.slots]
            rows.append(
                {
                    "certificate": key(place.upper()),
                    "API": f"{cert.api_major}.{cert.api_minor}",
                    "algorithm": _named(Algo, cert.pubkey_algo),
                    "slot 1": signers[0] if signers[0] == "empty" else key(signers[0]),
                    "slot 2": signers[1] if signers[1] == "empty" else key(signers[1]),
                }
            )
    return table(rows, title)


def _named(names: type[IntEnum], value: int) -> str:
    return names(value).name if value in names._value2member_map_ else f"0x{value:X}"
