"""What boxes, lines, colours and marks mean in every picture: for the notebook that introduces them."""

from __future__ import annotations

from sevref.show import palette
from sevref.show.html import Html, chip, element, escape
from sevref.show.table import Table, table


def legend() -> Table:
    """The signs of all pictures. Each has words or a mark beside its colour, here and in the pictures."""
    sp = palette.party("AMD-SP")
    field, (ink, yellow) = palette.FIELDS[0], palette.MARK
    signs = (
        (_box(sp), "box", "chain, states, sequence", "a party, by its colour: who acts, who holds the private key"),
        (chip("PEK", palette.key("PEK")), "name in its colour", "all", "a key"),
        (_line(palette.party("guest owner")), "arrow", "sequence", "a message, in the sender's colour"),
        (_line(palette.BAD), "red arrow, ✗, a status", "sequence", "a message that was refused"),
        (_line(sp, "dashed"), "dashed line", "sequence", "a party's time, from top to bottom"),
        (_line(palette.OK), "green arrow, ✓", "chain", "the key above has signed the certificate below"),
        (_line(palette.BAD), "red arrow, ✗", "chain", "it has not, or one of the two is missing"),
        (_line(palette.NEUTRAL, "dashed"), "dashed grey arrow, ○", "chain", "not checked"),
        (_line(palette.NEUTRAL), "grey arrow", "states", "the commands beside it lead from one state to the other"),
        ("", "strong box, ◀ now", "states", "where the run is"),
        (_bytes("4f 1d", palette.tint(field), field), "coloured", "byte map", "bytes of one field"),
        (_bytes("00 00", "transparent", palette.RESERVED), "grey line", "byte map", "reserved bytes"),
        (_bytes("4f", yellow, yellow, ink), "yellow", "byte map", "a byte that differs"),
        ("", "••", "byte map", "a byte of a secret"),
        ("", "▸", "byte map", "many bytes of one field, folded"),
        ("", "✓, ✗, ○", "tables", "yes or accepted, no or refused, not decided"),
        ("", "grey ✗, red ✗, –", "matrix", "refused by the state, refused by another rule, could not be asked"),
    )  # fmt: skip
    rows = [
        {"sign": Html(f"{sample} {escape(words)}".strip(), words), "where": where, "meaning": meaning}
        for sample, words, where, meaning in signs
    ]
    return table(rows, "Signs in the pictures")


def _line(colour: str, kind: str = "solid") -> str:
    return element("span", "", f"display:inline-block;width:34px;vertical-align:middle;border-top:2px {kind} {colour}")


def _box(colour: str) -> str:
    edge = f"border:1px solid {colour};border-left:5px solid {colour};background:{palette.tint(colour, 0.13)}"
    return element("span", "", f"{edge};display:inline-block;width:28px;height:14px;vertical-align:middle")


def _bytes(digits: str, background: str, line: str, ink: str = "inherit") -> str:
    style = f"background:{background};color:{ink};border-bottom:2px solid {line};padding:0 4px"
    return element("span", digits, style)
