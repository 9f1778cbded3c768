"""How the demonstration is written down: every command and every decision of a party is a step with its status."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sevref.driver import Exchange
from sevref.status import SevError, Status

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """What a party did. ``status`` is the answer of the firmware or of the party's own check, by name."""

    chapter: str
    party: str
    command: str
    status: str
    expected: str
    note: str


class Wrong(Exception):
    """A party finds something else than it should."""


class StoryEnds(Exception):
    """A step's status is not the expected one."""


@dataclass
class Recorder:
    """The steps so far; ``log`` is what the drivers of all platforms record."""

    steps: list[Step] = field(default_factory=list)
    log: list[Exchange] = field(default_factory=list)
    chapter: str = ""

    def act(
        self,
        party: str,
        command: str,
        call: Callable[[], T],
        note: str | Callable[[T], str] = "",
        expected: Status = Status.SUCCESS,
    ) -> T:
        """A party does something for itself; ``SevError`` gives its status. ``note`` may depend on the result."""
        result: Any = None
        status = Status.SUCCESS.name
        try:
            result = call()
            text = note if isinstance(note, str) else note(result)
        except SevError as error:
            status, text = error.status.name, note if isinstance(note, str) else error.rule
        except Wrong as error:
            status, text = "WRONG", str(error)
        self._write(party, command, status, expected, text)
        return result  # type: ignore[no-any-return]

    def drive(
        self,
        call: Callable[[], T],
        notes: Mapping[str, str | Callable[[T], str]] | None = None,
        expected: Status = Status.SUCCESS,
        party: str = "hypervisor",
        fold: tuple[str, ...] = (),
    ) -> T:
        """Commands to the firmware: each one in the log is a step that has to end with ``expected``, where the commands
        of ``fold`` that succeed are one step together, in the place of the first."""
        start, result = len(self.log), None
        status = Status.SUCCESS
        try:
            result = call()
        except SevError as error:
            status = error.status
        exchanges = self.log[start:]
        for exchange in exchanges:
            note = (notes or {}).get(exchange.message, exchange.note)
            if exchange.message in fold and exchange.status is Status.SUCCESS:
                alike = [other for other in exchanges if other.message == exchange.message]
                if exchange is not alike[0]:
                    continue
                note = f"{len(alike)} packets"
            text = note if isinstance(note, str) else note(result) if status is Status.SUCCESS else ""  # type: ignore[arg-type]
            assert exchange.status is not None
            self._write(party, exchange.message, exchange.status.name, expected, text)
        if not exchanges or exchanges[-1].status is not status:  # the host refused before it asked the firmware
            self._write(party, "prepare a command", status.name, expected, "")
        return result  # type: ignore[return-value]

    def _write(self, party: str, command: str, status: str, expected: Status, note: str) -> None:
        self.steps.append(Step(self.chapter, party, command, status, expected.name, note))
        if status != expected.name:
            raise StoryEnds(command)

    def text(self, ok: bool) -> str:
        """The story for people."""
        lines: list[str] = []
        chapter = ""
        for step in self.steps:
            if step.chapter != chapter:
                chapter = step.chapter
                lines += ["", chapter]
            lines.append(f"  {step.party:<14} {step.command:<26} {step.status:<20} {step.note}".rstrip())
            if step.status != step.expected:
                lines.append(f"  expected {step.expected}: the story ends here")
        count = sum(step.expected != "SUCCESS" for step in self.steps)
        end = (
            f"All {len(self.steps)} steps ended as they should; {count} of them were refused."
            if ok
            else "It went wrong."
        )
        return "\n".join([*lines[1:], "", end])
