"""Tables: of any rows, of a layout's fields, of a chain's checks, of statuses."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from sevref.layout import Layout
from sevref.show import palette
from sevref.show.html import (
    BREAK,
    MONO,
    Html,
    Showable,
    element,
    escape,
    frame,
    heading,
    scroll,
    status_words,
    verdict,
)
from sevref.status import Status

if TYPE_CHECKING:
    import pandas

_CELL = f"text-align:left;vertical-align:top;padding:3px 14px 3px 0;border:0;border-bottom:1px solid {palette.RULE}"
_HEAD = "text-align:left;vertical-align:bottom;padding:3px 14px 3px 0;border:0;border-bottom:1px solid"
#: columns of text that the last column may take
_LAST = 80
#: cells beyond this weight are left out and counted
_WEIGHT = 150_000


class Table(Showable):
    """Rows under named columns. ``frame()`` gives a pandas DataFrame of the raw values."""

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str = "", detail: str = ""
    ) -> None:
        self.rows, self.columns, self.title, self.detail = (
            [dict(row) for row in rows],
            list(columns),
            title,
            detail,
        )

    def frame(self) -> pandas.DataFrame:
        """The same rows as a pandas DataFrame."""
        import pandas

        return pandas.DataFrame(self.rows, columns=self.columns)

    def text(self) -> str:
        lines = [self.columns]
        for row in self.rows:
            *cells, last = [cell_text(row.get(name)) for name in self.columns] or [""]
            # the last column, usually the longest, runs over several lines
            first, *rest = textwrap.wrap(last, _LAST, break_long_words=False) or [""]
            lines += [[*cells, first], *([""] * len(cells) + [more] for more in rest)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        lines.insert(1, ["-" * width for width in widths])
        body = (
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        )
        top = f"{self.title}  {self.detail}".strip()
        return "\n".join([top] * bool(top) + list(body))

    def html(self) -> str:
        head = "".join(element("th", escape(name), _HEAD, scope="col") for name in self.columns)
        body, weight = [], 0
        for number, row in enumerate(self.rows):
            cells = "".join(element("td", cell_html(row.get(name)), _CELL) for name in self.columns)
            weight += len(cells.encode())
            if weight > _WEIGHT:
                rest = f"{len(self.rows) - number} more rows are not drawn"
                body.append(element("tr", element("td", rest, _CELL, colspan=len(self.columns))))
                break
            body.append(element("tr", cells, "background:transparent"))
        table = element(
            "table",
            f"<thead>{element('tr', head)}</thead>\n<tbody>{chr(10).join(body)}</tbody>",
            "border-collapse:collapse;border:0;margin:0;table-layout:auto;font-size:13px;font-variant-numeric:tabular-nums",
        )
        return frame(heading(self.title, self.detail), scroll(table, self.title or "table"))


def cell_text(value: Any) -> str:
    """One cell as text."""
    if value is None:
        return ""
    if isinstance(value, Showable):
        return " ".join(value.text().split())
    if isinstance(value, bool | Status):
        ok, words = status_words(value)
        return words if isinstance(value, bool) else f"{'✓' if ok else '✗'} {words}"
    if isinstance(value, IntEnum):
        return f"0x{int(value):X} {value.name}"
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if isinstance(value, tuple | list):
        return ", ".join(cell_text(part) for part in value)
    return " ".join(str(value).split())


def cell_html(value: Any) -> str:
    """One cell as HTML: statuses as verdicts, bytes in a fixed-width face, the rest escaped."""
    if isinstance(value, Showable):
        return value.html()
    if isinstance(value, Status):
        ok, words = status_words(value)
        return verdict(ok, words, value.meaning)
    text = escape(cell_text(value))
    if isinstance(value, bytes | bytearray):
        style = f"{MONO};font-size:12px;{BREAK};background:transparent;color:inherit"
        # lines of 16 bytes
        return element("code", text, style + ";display:inline-block" + (";width:19.4em" if len(value) > 15 else ""))
    return element("div", text, "min-width:18em") if len(text) > 40 else text


def table(
    rows: Iterable[Mapping[str, Any] | Sequence[Any]],
    title: str = "",
    columns: Sequence[str] | None = None,
    *,
    detail: str = "",
) -> Table:
    """A table of dicts, or of sequences with ``columns``. Cells may be text, numbers, bytes (hex),
    ``Status``, bool or anything that ``sevref.show`` returns. ``columns`` also chooses and orders the keys
    of dicts."""
    found: list[dict[str, Any]] = []
    for row in rows:
        if isinstance(row, Mapping):
            found.append(dict(row))
        else:
            if columns is None:
                raise TypeError("rows that are not dicts need columns")
            found.append(dict(zip(columns, row, strict=True)))
    names = list(columns) if columns is not None else list(dict.fromkeys(name for row in found for name in row))
    return Table(found, names, title, detail)


def code(text: str, title: str = "") -> Html:
    """A name in a fixed-width face, for a cell."""
    style = f"{MONO};font-size:12px;background:transparent;color:inherit;padding:0;white-space:nowrap"
    return Html(element("code", escape(text), style, **({"title": title} if title else {})), text)


def layout_table(cls: type[Layout] | Layout) -> Table:
    """Documentation of a structure: one row per field with offset, size, kind and meaning."""
    kind = cls if isinstance(cls, type) else type(cls)
    rows = [
        {
            "field": code(row["name"]),
            "offset": "varies" if row["offset"] is None else code(f"0x{row['offset']:03X}"),
            "size": "varies" if row["size"] is None else row["size"],
            "kind": row["kind"],
            "meaning": row["meaning"],
        }
        for row in kind.table()
    ]
    size = f"{kind.SIZE} bytes (0x{kind.SIZE:X})" if kind.FIXED else "size depends on its fields"
    return table(rows, kind.__name__, ["field", "offset", "size", "kind", "meaning"], detail=size)


def checks_table(result: Any) -> Table:
    """Every check of a chain's verification in order, passed and failed, with the status that decided it."""
    rows = [
        {
            "subject": check.subject,
            "issuer": check.issuer,
            "check": check.check,
            "verdict": verdict_cell(check.ok, "passed" if check.ok else Status(check.status).name),
            "detail": check.detail,
        }
        for check in result.checks
    ]
    notes = [f"warning: {warning}" for warning in result.warnings] + [f"ignored: {name}" for name in result.ignored]
    found = chain_words(result)
    shown = ChecksTable(rows, ["subject", "issuer", "check", "verdict", "detail"], "Checks of the chain", found)
    shown.notes = notes
    return shown


def chain_words(result: Any) -> str:
    """What a chain's verification came to, in one line."""
    valid = "✓ valid" if result.valid else "✗ NOT valid"
    return f"{valid} · root {result.root} · {result.generation or 'generation unknown'}"


class ChecksTable(Table):
    """A table with remarks below it."""

    notes: Sequence[str] = ()

    def text(self) -> str:
        return "\n".join([super().text(), *self.notes])

    def html(self) -> str:
        return super().html() + (frame(*(element("div", escape(note)) for note in self.notes)) if self.notes else "")


def verdict_cell(ok: bool | None, words: str) -> Html:
    """A verdict for a cell of a table."""
    ok_symbol = {True: "✓", False: "✗", None: "○"}[ok]
    return Html(verdict(ok, words), f"{ok_symbol} {words}")


def status_table(statuses: Iterable[Status] = tuple(Status)) -> Table:
    """Status codes with number and meaning."""
    rows = [{"code": code(f"0x{s:02X}"), "status": code(s.name), "meaning": s.meaning} for s in statuses]
    return table(rows, "Status codes")
