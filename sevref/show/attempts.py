"""What a notebook says it tried: each attempt is run, and who noticed it is recorded from the answer.

``Tape`` is the other witness: a source of randomness that remembers what it handed out, so that a demonstration with
seeded keys can show every one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from sevref.crypto import RandomSource
from sevref.show.html import BREAK, Html, Showable, element, escape, statement
from sevref.show.table import Table, code, table, verdict_cell
from sevref.status import SevError, Status

NOBODY = "nobody"


@dataclass(frozen=True)
class Attempt:
    """One attempt: ``noticed_by`` is a party or "nobody", ``why`` the rule that refused it or what it led to."""

    what: str
    noticed_by: str
    status: Status
    why: str


def brief(rule: str) -> str:
    """A rule in the words of a table: long numbers by their first digits, and not what would have been needed."""
    words = rule.partition("; needed: ")[0].removeprefix("the platform's chain does not verify: ")
    return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{24,}\b", r"\1…", words)


class Attempts(Showable):
    """The attempts of a run in order; shows as a table."""

    title = "What an attacker tried"

    def __init__(self) -> None:
        self.entries: list[Attempt] = []

    def run(self, what: str, action: Callable[[], Any], *, by: str = "AMD-SP", otherwise: str = "") -> Showable:
        """Make the attempt. A ``SevError`` is party ``by`` noticing it; without one nobody does, and ``otherwise``
        says what follows. Returns the answer, to be shown."""
        try:
            action()
        except SevError as error:
            entry = Attempt(what, by, error.status, error.rule)
        else:
            entry = Attempt(what, NOBODY, Status.SUCCESS, otherwise)
        self.entries.append(entry)
        status = f"{entry.status.name} (0x{entry.status:02X})"
        return statement(entry.noticed_by != NOBODY, f"{status}: noticed by {entry.noticed_by}", [entry.why], what)

    def answers(self) -> list[tuple[str, str]]:
        """(who noticed, status name) of every attempt, to be asserted."""
        return [(entry.noticed_by, entry.status.name) for entry in self.entries]

    def table(self) -> Table:
        """One row per attempt; a reason is brief, and one that repeats the one above it is not spelt out again. The
        answer that ``run`` returned has the whole rule."""
        before = ["", *(entry.why for entry in self.entries)]
        reasons = ["the same" if why and why == last else why for last, why in pairwise(before)]
        rows = [
            {
                "attempt": Html(element("div", escape(entry.what), "min-width:13em"), entry.what),
                "noticed by": verdict_cell(entry.noticed_by != NOBODY, entry.noticed_by),
                "status": code(entry.status.name),
                "why, or what follows": Html(
                    element("div", escape(brief(why)), f"min-width:12em;max-width:29em;{BREAK}"),
                    brief(why),
                ),
            }
            for entry, why in zip(self.entries, reasons, strict=True)
        ]
        return table(rows, self.title)

    def text(self) -> str:
        return self.table().text()

    def html(self) -> str:
        return self.table().html()


@dataclass(frozen=True)
class Draw:
    """One draw: what it was for, and the bytes."""

    what: str
    data: bytes = field(repr=False)


class Tape:
    """A ``RandomSource`` that passes another one through and remembers every draw."""

    def __init__(self, source: RandomSource) -> None:
        self._source = source
        self.draws: list[Draw] = []

    def draw(self, size: int, what: str = "") -> bytes:
        """``size`` bytes of the source behind."""
        data = self._source.draw(size, what)
        self.draws.append(Draw(what, data))
        return data

    def last(self, what: str) -> bytes:
        """The newest draw called ``what``. ``KeyError`` if there is none."""
        for draw in reversed(self.draws):
            if draw.what == what:
                return draw.data
        raise KeyError(what)

    def table(self, title: str = "") -> Table:
        """Every draw in order, bytes included: for demonstration keys only."""
        return table([{"draw": d.what, "bytes": len(d.data), "value": d.data} for d in self.draws], title)
