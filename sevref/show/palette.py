"""The colours that every picture shares: one per party, one per kind of key, one per verdict.

Each colour has a relative luminance between 0.117 and 0.183. White text on it reaches 4.5:1 (WCAG AA), and a
line, border or arrow in it reaches 3:1 on a white page and on JupyterLab's dark page (#111111). Text that
stands on the page itself has the reader's own colour (``currentColor``); an area behind such text is a
``tint``, which is translucent and follows the page. Nothing is said by colour alone: a name or a symbol
always stands beside it.
"""

from __future__ import annotations

import re

#: who acts; the keys are the names that pictures show
PARTIES: dict[str, str] = {
    "AMD": "#BC4F2B",
    "platform owner": "#8759CA",
    "guest owner": "#09833C",
    "hypervisor": "#697280",
    "AMD-SP": "#0175C1",
}
_ALIASES = {
    "firmware": "AMD-SP",
    "sp": "AMD-SP",
    "psp": "AMD-SP",
    "sev firmware": "AMD-SP",
    "amd sp": "AMD-SP",
}

#: what a key is
KEYS: dict[str, str] = {
    "ARK": "#CA3134",
    "ASK": "#B65B12",
    "CEK": "#8F6B06",
    "OCA": "#984CC7",
    "PEK": "#2C67DD",
    "PDH": "#027F9A",
    "GODH": "#068523",
    "KEK": "#C43988",
    "KIK": "#B74D6B",
    "TEK": "#697C03",
    "TIK": "#0C8171",
    "VEK": "#6A51E2",
}

OK, BAD, NEUTRAL = "#06833B", "#CE2930", "#697280"
#: fields of a byte map, in turn: neighbours differ in hue
FIELDS: tuple[str, ...] = (
    "#2974B9",
    "#AA5E03",
    "#238142",
    "#975AA5",
    "#037E83",
    "#B55255",
    "#757503",
    "#6D66BC",
)
#: text and background of a highlighted byte, readable on any page
MARK = ("#111111", "#FFD75E")
#: the pages that colours are tested against
PAGES = {"light": "#FFFFFF", "dark": "#111111"}


def party_name(name: str) -> str:
    """The name under which pictures show a party (``"firmware"`` and ``"guest_owner"`` are understood
    too)."""
    plain = name.strip().replace("_", " ").lower()
    return _ALIASES.get(plain) or next((known for known in PARTIES if known.lower() == plain), name.strip())


def party(name: str) -> str:
    """Colour of a party; two of a kind ("AMD-SP A", "AMD-SP B") share theirs. Parties not in the table are grey."""
    return PARTIES.get(party_name(re.sub(r" [A-Z]$", "", name.strip())), NEUTRAL)


def key(name: str) -> str:
    """Colour of a kind of key, by its abbreviation in any case; unknown kinds are grey."""
    return KEYS.get(name.strip().upper(), NEUTRAL)


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of ``#RRGGBB``, 0-255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def tint(colour: str, alpha: float = 0.2) -> str:
    """``colour`` as a translucent CSS background behind text in the reader's own colour."""
    r, g, b = rgb(colour)
    return f"rgba({r},{g},{b},{alpha:g})"


def over(colour: str, page: str, alpha: float = 0.2) -> str:
    """``#RRGGBB`` that ``tint(colour, alpha)`` gives on ``page``."""
    mixed = (round(alpha * c + (1 - alpha) * p) for c, p in zip(rgb(colour), rgb(page), strict=True))
    return "#" + "".join(f"{value:02X}" for value in mixed)


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2, 0 (black) to 1 (white)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """Contrast ratio of two opaque colours by WCAG 2, 1 to 21."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)
