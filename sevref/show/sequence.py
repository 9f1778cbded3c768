"""The sequence diagram: who sent what to whom, and what the answer was, drawn from a recorded run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sevref.driver import Exchange
from sevref.show import palette
from sevref.show.html import Showable, status_words, symbol
from sevref.show.svg import Svg, picture, text_width, verdict_colour, wrap

#: one message: the exchange, the lines above and below its arrow, what became of it
Row = tuple[Exchange, list[str], list[str], bool | None]
#: from left to right: the firmware talks to nobody but the hypervisor
_ORDER = ("AMD", "platform owner", "guest owner", "hypervisor", "AMD-SP", "guest")
SIZE = 11.5
#: room beside the first and the last party
EDGE = 54


def exchange(entry: Any) -> Exchange:
    """An ``Exchange`` from one, from any object with its attributes, from a tuple, or from an entry of a
    command log (``party``, ``command``, ``status``, ``note``: the party asks the firmware)."""
    if isinstance(entry, Exchange):
        return entry
    if isinstance(entry, tuple) and not hasattr(entry, "_fields"):
        return Exchange(*entry)
    if hasattr(entry, "source"):
        source, target, message = entry.source, entry.target, entry.message
    else:
        source, target, message = entry.party, "AMD-SP", entry.command
    note = str(getattr(entry, "note", "") or "")
    return Exchange(str(source), str(target), str(message), getattr(entry, "status", None), note)


def _way(entry: Exchange, arrow: str) -> str:
    """From whom to whom, or who speaks to itself."""
    source, target = palette.party_name(entry.source), palette.party_name(entry.target)
    return f"{source} {arrow} {target}" if source != target else source


class SequenceDiagram(Showable):
    """See ``sequence``."""

    def __init__(self, entries: Sequence[Exchange], title: str, parties: Sequence[str]) -> None:
        self.entries, self.title, self.parties = entries, title, parties

    def text(self) -> str:
        lines = [self.title] * bool(self.title)
        for number, entry in enumerate(self.entries, 1):
            words = status_words(entry.status)[1]
            answer = f"  [{words}]" if words else ""
            note = f"  {entry.note}" if entry.note else ""
            lines.append(f"{number:>2}. {_way(entry, '->')}: {entry.message}{answer}{note}")
        return "\n".join(lines)

    def html(self) -> str:
        return picture(self.title, "", self._draw(), self.text())

    def svg(self) -> str:
        """The drawing as an SVG file of its own, dark on white."""
        return self._draw().document(self.title)

    def _draw(self) -> Svg:
        step = self._step()
        # The boxes of the first and the last party stand half outside the lifelines.
        edge = [max(EDGE, text_width(name, 12.5) / 2 + 18) for name in self.parties]
        centre = {name: edge[0] + i * step for i, name in enumerate(self.parties)}
        right = max(centre.values(), default=0) + (edge[-1] if edge else 0)
        rows: list[Row] = []
        for entry in self.entries:
            room = self._room(entry, step)
            ok, words = status_words(entry.status)
            below = f"{symbol(ok)} {words}" if words else ""
            below = f"{below}: {entry.note}" if below and entry.note else below or entry.note
            rows.append((entry, wrap(entry.message, room, SIZE, True), wrap(below, room, SIZE), ok if words else None))
        height = 52 + sum(16 * len(above) + 14 * len(below) + 24 for _, above, below, _ in rows)
        svg = Svg(right, height)
        for name in self.parties:
            for top, end in self._lifeline(name, centre, rows, height - 4):
                svg.line([(centre[name], top), (centre[name], end)], palette.party(name), dashed=True, width=1.2)
        for name in self.parties:
            width = text_width(name, 12.5) + 28
            svg.box(centre[name] - width / 2, 6, width, 28, palette.party(name))
            svg.text(centre[name] + 2, 24.5, name, size=12.5, bold=True, anchor="middle")
            svg.aside(", " if name != self.parties[-1] else "")
        y = 50.0
        for number, (entry, above, under, ok) in enumerate(rows, 1):
            svg.aside(f"\n{number:>2}. {_way(entry, '→')}: ")
            y += self._message(svg, centre, entry, above, under, ok, y, step)
        return svg

    def _message(
        self, svg: Svg, centre: dict[str, float], entry: Exchange, above: list[str], below: list[str],
        ok: bool | None, y: float, step: float,
    ) -> float:  # fmt: skip
        source, target = palette.party_name(entry.source), palette.party_name(entry.target)
        a, b = centre[source], centre[target]
        colour = verdict_colour(False) if ok is False else palette.party(source)
        line_y = y + 16 * len(above) + 4
        here = source == target
        last = here and source == self.parties[-1] and len(self.parties) > 1
        side = -1 if last else 1  # the last party talks to itself on its left, where there is room
        x, anchor = (a + 33 * side, "end" if last else "start") if here else ((a + b) / 2, "middle")
        for i, text in enumerate(above):
            svg.text(x, y + 12 + 16 * i, text, size=SIZE, mono=True, bold=True, anchor=anchor)
        if here:
            far = a + 26 * side
            svg.arrow([(a, y + 8), (far, y + 8), (far, line_y + 6), (a + 2 * side, line_y + 6)], colour)
        else:
            svg.arrow([(a, line_y), (b, line_y)], colour)
        for i, text in enumerate(below):
            svg.text(x, line_y + 14 + 14 * i, text, size=SIZE, anchor=anchor)
        return 16 * len(above) + 14 * len(below) + 24

    def _lifeline(
        self, name: str, centre: dict[str, float], rows: Sequence[Row], end: float
    ) -> Iterator[tuple[float, float]]:
        """The pieces of a lifeline: it is broken where words of others stand on it."""
        top, y = 34.0, 50.0
        for entry, above, below, _ in rows:
            a, b = (centre[palette.party_name(party)] for party in (entry.source, entry.target))
            line_y = y + 16 * len(above) + 4
            for texts, start, height, mono in ((above, y, 16, True), (below, line_y + 2, 14, False)):
                width = max((text_width(text, SIZE, mono) for text in texts), default=0)
                if texts and a != b and abs(centre[name] - (a + b) / 2) < width / 2 + 2:
                    yield top, start
                    top = start + height * len(texts) + 2
            y += 16 * len(above) + 14 * len(below) + 24
        yield top, end

    def _span(self, entry: Exchange) -> int:
        places = [self.parties.index(palette.party_name(name)) for name in (entry.source, entry.target)]
        return abs(places[0] - places[1])

    def _room(self, entry: Exchange, step: float) -> float:
        span = self._span(entry)
        return span * step - 22 if span else step - 44  # what a party says to itself starts beside its lifeline

    def _step(self) -> float:
        widest = 118.0
        for entry in self.entries:
            widest = max(widest, (text_width(entry.message, SIZE, True) + 24) / max(self._span(entry), 1))
        return min(widest, 156.0) if len(self.parties) > 2 else max(widest, 230.0)


def sequence(log: Iterable[Any], title: str = "", parties: Sequence[str] | None = None) -> SequenceDiagram:
    """Sequence diagram of ``Exchange`` entries, of a platform's ``log``, or of tuples (source, target,
    message, status, note). ``parties`` fixes the columns; by default those that occur, in the order of the
    cast."""
    entries = [exchange(entry) for entry in log]
    present = dict.fromkeys(palette.party_name(name) for e in entries for name in (e.source, e.target))
    if parties is not None:
        present = dict.fromkeys([*map(palette.party_name, parties), *present])
        ordered = list(present)
    else:
        ordered = [name for name in _ORDER if name in present] + [name for name in present if name not in _ORDER]
    return SequenceDiagram(entries, title, ordered)
