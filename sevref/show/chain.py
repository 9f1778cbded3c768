"""The certificate chain as a picture: from AMD's root and the owner's down to the PDH, a verdict on each
link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sevref.show import palette
from sevref.show.html import Showable, symbol
from sevref.show.svg import Svg, picture, verdict_colour
from sevref.show.table import chain_words
from sevref.status import Status

#: certificate -> (who holds the private key, what the key is)
_CAST = {
    "ARK": ("AMD", "AMD root key"),
    "ASK": ("AMD", "AMD SEV signing key"),
    "CEK": ("AMD-SP", "chip endorsement key"),
    "OCA": ("platform owner", "owner certificate authority"),  # or the AMD-SP: see ``self_owned``
    "PEK": ("AMD-SP", "platform endorsement key"),
    "PDH": ("AMD-SP", "platform Diffie-Hellman key"),
}
#: (issuer, subject) from top to bottom
_LINKS = (("ARK", "ASK"), ("ASK", "CEK"), ("CEK", "PEK"), ("OCA", "PEK"), ("PEK", "PDH"))
_BOX, _HEIGHT, _GAP, _RIGHT = 190, 60, 48, 212


@dataclass(frozen=True)
class Verdict:
    """What the checks of one link or of one certificate come to. ``ok`` is None when nothing was checked."""

    ok: bool | None
    words: str
    detail: str = ""


def _verdict(checks: list[Any], passed: str) -> Verdict:
    if not checks:
        return Verdict(None, "not checked")
    failed = next((check for check in checks if not check.ok), None)
    if failed is None:
        return Verdict(True, passed, "; ".join(f"{check.check}: {check.detail}" for check in checks))
    words = Status(failed.status).name if failed.check == "signature" else f"{failed.check} fails"
    return Verdict(False, "missing" if failed.check == "present" else words, str(failed.detail))


class ChainPicture(Showable):
    """See ``chain_picture``."""

    def __init__(self, result: Any, title: str, self_owned: bool | None = None) -> None:
        self.result, self.title, self.self_owned = result, title, self_owned

    def holder(self, name: str) -> tuple[str, str]:
        """The party that holds a private key, and what the picture says of it."""
        who = _CAST[name][0]
        if name == "OCA" and self.self_owned is not False:
            return ("AMD-SP", "AMD-SP") if self.self_owned else (who, "owner or AMD-SP")
        return who, who

    def _checks(self, subject: str, issuer: str | None) -> list[Any]:
        found = [check for check in self.result.checks if str(check.subject).upper() == subject]
        if issuer is None:
            others = {upper for upper, lower in _LINKS if lower == subject}
            return [check for check in found if str(check.issuer or "").upper() not in others]
        return [check for check in found if str(check.issuer or "").upper() == issuer]

    def link(self, issuer: str, subject: str) -> Verdict:
        """Verdict on the signature of ``subject`` by ``issuer``."""
        found = _verdict(self._checks(subject, issuer), "signature valid")
        absent = [name for name in (issuer, subject) if self.own(name).words == "missing"]
        return Verdict(False, "cannot be checked", f"without {' and '.join(absent)}") if absent else found

    def own(self, name: str) -> Verdict:
        """Verdict on what concerns no other certificate: present, self-signature, pinned root, form."""
        checks = self._checks(name, None)
        pinned = any(check.check == "root hash" for check in checks)
        return _verdict(checks, "signs itself, pinned" if pinned else "signs itself" if name == "OCA" else "present")

    def text(self) -> str:
        lines = [f"{self.title}: {chain_words(self.result)}"]
        if self.self_owned is not None:
            lines.append(f"  private key of the OCA: {self.holder('OCA')[0]}")
        for name in _CAST:
            own = self.own(name)
            lines += [self._line(name, own)] * (own.words != "present")
            lines += [self._line(f"{i} -> {s}", self.link(i, s)) for i, s in _LINKS if s == name]
        return "\n".join(lines)

    def _line(self, what: str, found: Verdict) -> str:
        detail = f": {found.detail}" if found.ok is False and found.detail else ""
        return f"  {symbol(found.ok)} {what:<10} {found.words}{detail}"

    def html(self) -> str:
        return picture(self.title, chain_words(self.result), self._draw(), self.text())

    def _draw(self) -> Svg:
        rows = {name: 8 + i * (_HEIGHT + _GAP) for i, name in enumerate(("ARK", "ASK", "CEK", "PEK", "PDH"))}
        svg = Svg(_RIGHT + _BOX + 4, rows["PDH"] + _HEIGHT + 10)
        place = {name: (4.0, float(y)) for name, y in rows.items()} | {"OCA": (float(_RIGHT), float(rows["CEK"]))}
        for name in _CAST:
            self._node(svg, name, *place[name])
            for issuer, subject in _LINKS:
                if subject == name:
                    self._arrow(svg, issuer, subject, place)
        return svg

    def _node(self, svg: Svg, name: str, x: float, y: float) -> None:
        (who, said), what = self.holder(name), _CAST[name][1]
        own = self.own(name)
        svg.box(x, y, _BOX, _HEIGHT, palette.party(who))
        svg.aside("\n")
        svg.add("rect", x=f"{x + 13:g}", y=f"{y + 9:g}", width=44, height=18, rx=3, fill=palette.key(name))
        svg.text(x + 35, y + 22.5, name, size=12.5, bold=True, anchor="middle", fill=palette.ON_SOLID)
        svg.aside(" (")
        svg.text(x + 64, y + 22.5, said, size=12)
        svg.aside("): ")
        shown = own.ok is False or (own.ok and own.words != "present")
        svg.text(x + 13, y + (40 if shown else 46), what, size=11)
        if shown:
            svg.aside(", ")
            svg.text(x + 13, y + 54, f"{symbol(own.ok)} {own.words}", size=11, bold=True)

    def _arrow(self, svg: Svg, issuer: str, subject: str, place: dict[str, tuple[float, float]]) -> None:
        link = self.link(issuer, subject)
        colour, dashed = verdict_colour(link.ok), link.ok is None
        x = place[issuer][0] + (12 if issuer == "OCA" else 34)
        top, end = place[issuer][1] + _HEIGHT, place[subject][1]
        if issuer == "OCA":
            end += _HEIGHT / 2
            svg.arrow([(x, top), (x, end), (place[subject][0] + _BOX, end)], colour, dashed=dashed)
        else:
            svg.arrow([(x, top), (x, end)], colour, dashed=dashed)
        svg.aside(f"\n  {issuer} → {subject}: ")
        svg.text(x + 9, top + _GAP / 2 + 4, f"{symbol(link.ok)} {link.words}", size=11.5, bold=True)


def chain_picture(result: Any, title: str = "Certificate chain", *, self_owned: bool | None = None) -> ChainPicture:
    """Picture of a verified chain (a ``ChainResult``): ARK, ASK, CEK, PEK, PDH, and OCA beside them; every
    link says in a symbol and words what its checks came to. A box has the colour of the party that holds the
    private key. Whether that of the OCA is the owner's or, while nobody owns the platform, the AMD-SP's, no
    certificate tells; ``self_owned`` does."""
    return ChainPicture(result, title, self_owned)
