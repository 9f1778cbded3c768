"""A matrix of answers: what was asked on the left, under which circumstances on top, the status in each cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sevref.show import palette
from sevref.show.html import MONO, Showable, as_text, element, escape, frame, heading, scroll, symbol
from sevref.status import SevError, Status

_HEAD = "padding:3px 5px;border:0;border-bottom:1px solid;font-size:12px;vertical-align:bottom;text-align:left"
_NAME = f"padding:2px 8px 2px 0;border:0;border-bottom:1px solid {palette.RULE};text-align:left;white-space:nowrap"
_CELL = (
    f"padding:2px 5px;border:0;border-bottom:1px solid {palette.RULE};text-align:left;font-size:11.5px;line-height:1.25"
)


@dataclass(frozen=True)
class Reply:
    """The answer to one request: status and, if it was refused, the rule."""

    status: Status
    rule: str = ""


def ask(action: Callable[[], Any]) -> Reply:
    """Run a driver's call; what it answers."""
    try:
        action()
    except SevError as error:
        return Reply(error.status, error.rule)
    return Reply(Status.SUCCESS)


def short(status: Status) -> str:
    """A status in few words: without INVALID_, which the cross beside it says."""
    return "ok" if status is Status.SUCCESS else status.name.removeprefix("INVALID_").replace("_", " ").lower()


def marked(status: Status) -> str:
    """A status in few words with its mark."""
    return f"{symbol(status is Status.SUCCESS)} {short(status)}"


class Matrix(Showable):
    """See ``matrix``."""

    def __init__(
        self, cells: Mapping[tuple[str, str], Reply], rows: Sequence[str], columns: Sequence[str], title: str
    ) -> None:
        self.cells, self.rows, self.columns, self.title = dict(cells), list(rows), list(columns), title

    def status(self, row: str, column: str) -> Status | None:
        """One cell; None where nothing could be asked."""
        reply = self.cells.get((row, column))
        return None if reply is None else reply.status

    def statuses(self, row: str) -> list[str]:
        """A row as names of statuses, "-" where nothing could be asked."""
        found = [self.status(row, column) for column in self.columns]
        return ["-" if status is None else status.name for status in found]

    def counts(self) -> dict[str, int]:
        """How often each status occurs, in the order of their numbers."""
        found = [reply.status for reply in self.cells.values()]
        return {status.name: found.count(status) for status in sorted(set(found))}

    def text(self) -> str:
        lines = [["", *self.columns]]
        for row in self.rows:
            replies = [self.cells.get((row, column)) for column in self.columns]
            lines.append([row, *("-" if reply is None else marked(reply.status) for reply in replies)])
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        body = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
        return "\n".join([self.title, *body])

    def html(self) -> str:
        top = "".join(element("th", escape(name), _HEAD, scope="col") for name in ("", *self.columns))
        body = "".join(
            element(
                "tr",
                element("th", escape(row), f"{_NAME};font-weight:normal;{MONO};font-size:12px", scope="row")
                + "".join(self._cell(row, column) for column in self.columns),
                "background:transparent",
            )
            for row in self.rows
        )
        style = "border-collapse:collapse;border:0;margin:0;table-layout:auto"
        table = element("table", f"<thead>{element('tr', top)}</thead>\n<tbody>{body}</tbody>", style)
        return frame(heading(self.title), scroll(table, self.title), as_text(self.text()))

    def _cell(self, row: str, column: str) -> str:
        reply = self.cells.get((row, column))
        if reply is None:
            return element("td", "–", _CELL, title=f"{row}, {column}: could not be asked")
        ok = reply.status is Status.SUCCESS
        colour = palette.OK if ok else _colour(reply.status)
        said = f"{row}, {column}: {reply.status.name}" + (f": {reply.rule}" if reply.rule else "")
        style = f"{_CELL};background:{palette.tint(colour, 0.18)};border-left:3px solid {colour}"
        return element("td", escape(marked(reply.status)), style, title=said)


def _colour(status: Status) -> str:
    """The states refuse in grey, everything else in red: most cells of a matrix of states are the former."""
    return palette.NEUTRAL if status in _STATES else palette.BAD


_STATES = (Status.INVALID_PLATFORM_STATE, Status.INVALID_GUEST_STATE, Status.INACTIVE, Status.ACTIVE)


def matrix(
    cells: Mapping[tuple[str, str], Reply],
    title: str = "",
    rows: Iterable[str] | None = None,
    columns: Iterable[str] | None = None,
) -> Matrix:
    """Matrix of ``cells`` (row, column) -> ``Reply``; rows and columns in the order of their first cell, or as given.
    A cell that is missing is shown as a dash: nothing could be asked."""
    return Matrix(
        cells,
        list(rows) if rows is not None else list(dict.fromkeys(row for row, _ in cells)),
        list(columns) if columns is not None else list(dict.fromkeys(column for _, column in cells)),
        title,
    )
