"""The byte map: every byte of a structure, coloured by its field, and a table that explains each field.

Rows of 16 bytes (two groups of 8, which break on narrow pages). Long runs of one field (reserved bytes, zero
filler, the inside of RSA numbers) are folded; a few rows with changed bytes never are. Secret fields are masked.
The rows are lines of ``<pre>`` with the spaces of a plain dump between their bytes: that is what is left of them where
styles are stripped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby

from sevref.layout import Layout, Row
from sevref.show import palette
from sevref.show.html import MONO, UNBOXED, Html, Showable, as_text, element, escape, frame, heading
from sevref.show.table import code, table
from sevref.status import InputError

WIDTH = 16
#: rows of the dump beyond this weight in bytes are not drawn
_WEIGHT = 110_000
#: a run of whole rows of one field is folded from this many rows on
_FOLD_ROWS = 3
#: of a field that is not filler, this many rows stay visible at each end of a fold
_KEEP_ROWS = 2
#: of a field in which more bytes differ than this, they are counted, not listed
_SINGLY = 4

Parts = Sequence[tuple[str, bytes, str]]
Source = Layout | type[Layout] | bytes | bytearray | tuple[bytes, type[Layout]] | Parts


def byte_map(
    source: Source,
    title: str | None = None,
    *,
    fold: bool = True,
    diff: bytes | Layout | None = None,
    fields: bool = True,
    colours: Mapping[str, str] | None = None,
    secret: Iterable[str] = (),
    start: int = 0,
    reveal: Iterable[str] = (),
) -> ByteMap:
    """Byte map of a structure, of a structure's class (all zero), of ``(bytes, layout)``, of plain bytes, or
    of a list of ``(name, bytes, meaning)``.

    ``fold=False`` shows every row. ``diff`` are the bytes to compare with: bytes that differ are highlighted,
    and the list below says where. ``fields=False`` leaves out the table of fields; the text form is folded below
    instead. ``colours`` gives fields a colour of the palette, by name (``{"tik": palette.key("TIK")}``).
    ``secret`` names further fields to be masked. ``start`` is the offset of the first byte, where the bytes are
    part of something larger. ``reveal`` names fields that are not folded: ``"sig1.s"``, or ``"sig1"`` for all
    of its parts.
    """
    rows, data, name = _rows(source)
    other = diff.pack() if isinstance(diff, Layout) else diff
    return ByteMap(
        rows, data, name if title is None else title, fold=fold, other=other, fields=fields,
        colours=dict(colours or {}), secret=set(secret), start=start, reveal=set(reveal),
    )  # fmt: skip


def _rows(source: Source) -> tuple[list[Row], bytes, str]:
    if isinstance(source, type):
        source = source()
        return source.describe(), source.pack(), f"{type(source).__name__} (all zero)"
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[1], type):
        source = source[1].parse(source[0])
    if isinstance(source, Layout):
        return source.describe(), source.pack(), type(source).__name__
    if isinstance(source, bytes | bytearray):
        source = (("data", bytes(source), "bytes"),)
    rows, position = [], 0
    for name, data, meaning in source:
        if data:
            rows.append(Row(name, position, len(data), "bytes", data, data.hex(), meaning))
        position += len(data)
    return rows, b"".join(row.data for row in rows), ""


@dataclass
class Run:
    """Neighbouring bytes of one field inside one half row."""

    field: int
    start: int
    size: int


class ByteMap(Showable):
    """See ``byte_map``. ``changed`` are the offsets that differ from the bytes compared with."""

    def __init__(
        self,
        rows: list[Row],
        data: bytes,
        title: str,
        *,
        fold: bool = True,
        other: bytes | None = None,
        fields: bool = True,
        colours: Mapping[str, str],
        secret: set[str],
        start: int = 0,
        reveal: set[str],
    ) -> None:
        self.title, self.rows, self.fields, self.other = title, rows, fields, other
        self._data, self._start = data, start
        names = [{row.name, row.name.split(".")[0]} for row in rows]
        self._foldable = {index for index, known in enumerate(names) if fold and not known & reveal}
        if unknown := reveal - set().union(*names):
            raise InputError("reveal", "names of fields", ", ".join(sorted(unknown)))
        turn = cycle(palette.FIELDS)
        self._colours = [
            colours[row.name] if row.name in colours else None if row.kind == "reserved" else next(turn) for row in rows
        ]
        self._owner = [index for index, row in enumerate(rows) for _ in range(row.size)]
        self._masked = {index for index, row in enumerate(rows) if row.secret or row.name in secret}
        self.changed: list[int] = []
        if other is not None:
            end = max(len(data), len(other))
            self.changed = [i for i in range(end) if data[i : i + 1] != other[i : i + 1]]
        self._differs = frozenset(self.changed)
        self._digits = max(4, len(f"{start + max(len(data) - 1, 0):x}"))

    # -- what one byte, field or row looks like

    def colour(self, index: int) -> str | None:
        """Colour of field ``index``; None for reserved bytes and filler, which stay plain."""
        return self._colours[index]

    def _byte(self, offset: int) -> str:
        return "••" if self._owner[offset] in self._masked else f"{self._data[offset]:02x}"

    def _value(self, index: int) -> str:
        row = self.rows[index]
        if index in self._masked:
            return "(secret)"
        if row.kind == "integer" and row.size <= 8:
            return row.text
        if not any(row.data):
            return "zero" if row.size == 1 else "all zero"
        if row.kind == "integer":
            digits = f"{int.from_bytes(row.data, 'little'):x}"
            return f"0x{digits}" if len(digits) <= 24 else f"0x{digits[:10]}...{digits[-8:]}"
        text = row.data.hex()
        return text if row.size <= 16 else f"{text[:16]}...{text[-8:]}"

    def _filler(self, line: int) -> bool:
        """Whether a row of the dump belongs to one field and holds nothing (reserved or zero)."""
        start = line * WIDTH
        chunk = self._data[start : start + WIDTH]
        row = self.rows[self._owner[start]]
        return self._owner[start] not in self._masked and (not any(chunk) or row.kind == "reserved")

    def _folds(self) -> list[tuple[bool, list[int]]]:
        """The rows of the dump in order, in groups: (folded, rows)."""
        lines = range(-(-len(self._data) // WIDTH))
        differing = {offset // WIDTH for offset in self.changed}

        def kind(line: int) -> tuple[int, bool, bool]:
            owners = set(self._owner[line * WIDTH : (line + 1) * WIDTH])
            if len(owners) > 1:
                return -1 - line, False, False
            return owners.pop(), self._filler(line), line in differing

        groups: list[tuple[bool, list[int]]] = []

        def add(folded: bool, block: list[int]) -> None:
            if groups and not folded and not groups[-1][0]:
                groups[-1][1].extend(block)
            elif block:
                groups.append((folded, block))

        for (owner, filler, differs), found in groupby(lines, kind):
            block = list(found)
            keep = 0 if filler and not differs else _KEEP_ROWS
            if owner in self._foldable and len(block) >= _FOLD_ROWS + 2 * keep:
                add(False, block[:keep])
                add(True, block[keep : len(block) - keep])
                block = block[len(block) - keep :]
            add(False, block)
        return groups

    # -- text

    def text(self) -> str:
        digits = max(2, len(f"{self._start + len(self._data):X}"))
        hex_width = 3 * max((min(row.size, WIDTH) for row in self.rows), default=1) - 1
        lines = [f"{self.title}: {len(self._data)} bytes" if self.title else f"{len(self._data)} bytes"]
        for index, row in enumerate(self.rows):
            value = f" = {self._value(index)}" if row.kind == "integer" or index in self._masked else ""
            size = f" ({_size(row)})" if row.size > WIDTH else ""  # shorter ones stand in one line
            words = f"{row.name}{size}{value}: {row.meaning}"
            starts = list(range(row.offset, row.offset + row.size, WIDTH))
            if index in self._foldable and len(starts) > 6:
                starts = starts[:2]
            for start in starts:
                bytes_ = " ".join(self._byte(i) for i in range(start, min(start + WIDTH, row.offset + row.size)))
                mark = "*" if any(start <= c < min(start + WIDTH, row.offset + row.size) for c in self.changed) else " "
                lines.append(f"0x{self._start + start:0{digits}X}{mark} {bytes_:<{hex_width}}  {words}".rstrip())
                words = ""
            left = row.size - WIDTH * len(starts)
            if left > 0:
                zero = not any(row.data[-left:]) and index not in self._masked
                lines.append(f"{' ' * (digits + 3)} ... {left} more bytes{', all zero' if zero else ''}")
        return "\n".join(lines + self._differences())

    def _differences(self) -> list[str]:
        """Which bytes differ, in words: a line for each byte, or for a field in which many do."""
        if self.other is None:
            return []
        if not self.changed:
            return ["no byte differs"]
        lines = [f"{len(self.changed)} bytes differ (*):"] if len(self.changed) > 1 else ["1 byte differs (*):"]
        for owner, found in groupby(self.changed, lambda i: self._owner[i] if i < len(self._data) else None):
            offsets = list(found)
            if owner is None:
                lines.append(f"  {self._at(offsets[0])}: {_bytes(len(offsets))} missing here")
            elif len(offsets) > _SINGLY:
                row = self.rows[owner]
                lines.append(f"  {self._at(offsets[0])} in {row.name}: {len(offsets)} of its {_size(row)}")
            else:
                lines += [self._difference(offset) for offset in offsets]
        return lines if len(lines) <= 12 else [*lines[:11], f"  ... and {len(lines) - 11} lines more"]

    def _difference(self, offset: int) -> str:
        assert self.other is not None
        masked = self._owner[offset] in self._masked
        old = "••" if masked else self.other[offset : offset + 1].hex() or "missing"
        return f"  {self._at(offset)} in {self.rows[self._owner[offset]].name}: {old} -> {self._byte(offset)}"

    def _at(self, offset: int) -> str:
        return f"0x{self._start + offset:X}"

    # -- HTML

    def html(self) -> str:
        parts, weight, drawn = [], 0, 0
        for folded, lines in self._folds():
            pieces = []
            for line in lines:
                pieces.append(self._plain(line) if folded else self._line(line))
                weight += len(pieces[-1].encode())
                if weight > _WEIGHT:
                    break
            drawn += len(pieces)
            shown = element("pre", "\n".join(pieces), f"white-space:normal;{UNBOXED};{MONO};font-size:12px")
            parts.append(self._folded(lines, pieces) if folded else shown)
            if weight > _WEIGHT:
                left = len(self._data) - drawn * WIDTH
                parts.append(element("div", f"... {left} more bytes are not drawn", "margin:4px 0"))
                break
        style = f"{MONO};font-size:12px;line-height:1.75"
        dump = element("div", "".join(parts), style, role="group", aria_label=f"bytes of {self.title}")
        words = [line.replace(" (*)", "") for line in self._differences()]
        below = element("div", "".join(element("div", escape(line)) for line in words), "margin:0 0 6px")
        size = f"{len(self._data)} bytes (0x{len(self._data):X})"
        fields = self._table() if self.fields else as_text(self.text())
        return frame(heading(self.title, size), dump, self._legend(), below if words else "", fields)

    def _folded(self, lines: list[int], pieces: list[str]) -> str:
        start, end = lines[0] * WIDTH, min((lines[-1] + 1) * WIDTH, len(self._data))
        owner = self._owner[start]
        zero = not any(self._data[start:end]) and owner not in self._masked
        differ = len(self._differs.intersection(range(start, end)))
        words = f"{self._offset(start)}-{self._offset(end - 1)}: {_bytes(end - start)} of {self.rows[owner].name}"
        words += ", all zero" * zero + f", {differ} differ" * bool(differ)
        summary = element("summary", escape(words), "cursor:pointer;padding:1px 0")
        style = f"{UNBOXED};{MONO};white-space:pre;overflow-x:auto;font-size:11px;line-height:1.6"
        return element("details", summary + element("pre", "\n".join(pieces), style, tabindex=0))

    def _plain(self, line: int) -> str:
        """One row inside a fold: the fold's summary names its field."""
        start, end = line * WIDTH, min((line + 1) * WIDTH, len(self._data))
        halves = (range(at, min(at + 8, end)) for at in (start, start + 8))
        mark = "*" if self._differs.intersection(range(start, end)) else " "
        return f"{self._offset(start)}{mark} " + "  ".join(
            " ".join(self._byte(i) for i in half) for half in halves if half
        )

    def _offset(self, offset: int) -> str:
        return f"{self._start + offset:0{self._digits}x}"

    def _line(self, line: int) -> str:
        """One row. Only spaces stand between its parts: no browser draws them there, and a plain dump needs them."""
        start, end = line * WIDTH, min((line + 1) * WIDTH, len(self._data))
        groups = "  ".join(self._half(at, min(at + 8, end)) for at in (start, start + 8) if at < end)
        begins = [i for i in dict.fromkeys(self._owner[start:end]) if self.rows[i].offset >= start]
        names = "  ".join(self._name(i) for i in begins)
        labels = element("span", names, "display:flex;flex-wrap:wrap;gap:0 8px;font-size:11px") if names else ""
        gap = " " * (3 * (WIDTH - (end - start)) + 2 + (end - start <= 8)) if names else ""
        offset = element("span", self._offset(start), f"flex:none;width:{7.3 * self._digits + 7:.0f}px")
        body = element("span", f"{groups}{gap}{labels}", "display:flex;flex-wrap:wrap;gap:0 10px;min-width:0")
        return element("span", f"{offset}  {body}", "display:flex;line-height:1.75")

    def _half(self, start: int, end: int) -> str:
        runs: list[Run] = []
        for offset in range(start, end):
            if runs and runs[-1].field == self._owner[offset]:
                runs[-1].size += 1
            else:
                runs.append(Run(self._owner[offset], offset, 1))
        return element("span", " ".join(self._run(run) for run in runs), "display:flex;white-space:pre")

    def _run(self, run: Run) -> str:
        row, colour = self.rows[run.field], self.colour(run.field)
        texts = []
        for offset in range(run.start, run.start + run.size):
            text = self._byte(offset)
            if offset in self._differs:
                style = f"color:{palette.MARK[0]};background:{palette.MARK[1]};font-weight:700;padding:0"
                text = element("mark", text, style, title=f"differs at {self._at(offset)}")
            texts.append(text)
        style = f"padding:0 3.6px;border-bottom:2px solid {palette.RESERVED}"
        if colour is not None:
            style = f"padding:0 3.6px;background:{palette.tint(colour)};border-bottom:2px solid {colour}"
            if row.offset == run.start:
                style += f";box-shadow:inset 2px 0 0 {colour}"
        return element("span", " ".join(texts), style, title=f"{row.name}, {_size(row)} at {self._at(row.offset)}")

    def _name(self, index: int) -> str:
        row, line = self.rows[index], f"border-bottom:2px solid {self.colour(index) or palette.RESERVED}"
        return element("span", escape(row.name), line, **({"title": row.meaning} if row.meaning else {}))

    def _legend(self) -> str:
        """What the marks mean, unless the map has nothing but fields."""
        field, mark = palette.FIELDS[0], palette.MARK
        samples = [(f"background:{palette.tint(field)};border-bottom:2px solid {field}", "coloured: a field")]
        if any(row.kind == "reserved" for row in self.rows):
            samples.append((f"border-bottom:2px solid {palette.RESERVED}", "grey: reserved"))
        if self._masked:
            samples.append(("", "••: secret"))
        if self.changed:
            samples.append((f"color:{mark[0]};background:{mark[1]}", "yellow: differs"))
        if any(folded for folded, _ in self._folds()):
            samples.append(("", "▸: folded, open to see the bytes"))
        if len(samples) == 1:
            return ""
        items = " · ".join(element("span", text, style + ";padding:0 4px" if style else "") for style, text in samples)
        return element("div", items, "font-size:11px;line-height:1.8;margin:6px 0")

    def _table(self) -> str:
        rows = []
        for index, row in enumerate(self.rows):
            colour = self.colour(index)
            style = f"border-left:4px solid {colour or palette.RESERVED};padding:0 0 0 6px"
            rows.append(
                {
                    "field": Html(element("span", code(row.name).html(), style), row.name),
                    "offset": code(f"0x{self._start + row.offset:03X}"),
                    "size": row.size,
                    "value": code(self._value(index)),
                    "meaning": row.meaning,
                }
            )
        summary = element("summary", f"Fields ({len(rows)})", "cursor:pointer")
        return element("details", summary + table(rows).html(), open="open")


def _size(row: Row) -> str:
    return _bytes(row.size)


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count} bytes"
