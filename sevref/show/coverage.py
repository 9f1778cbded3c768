"""What the notebooks exercise: which commands with which status, which structures as byte maps.

``record_cells(path)`` runs a notebook's cells in this process, in an IPython shell as a kernel would, while
``recorder`` listens at the mailbox, at ``SevError`` and at ``byte_map``. A name that merely stands in a text does not
count.

``as_json`` is the form in which ``data/site/coverage.json`` keeps the result: names alone, no counts, so that it
changes only with what is shown. Cells are numbered as their execution counts are, from 1, so that the
text around them may change.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from sevref.firmware import BY_NAME, COMMANDS, SecureProcessor
from sevref.layout import Layout
from sevref.show import bytemap
from sevref.status import InputError, SevError, Status

#: what stands for a command id that is in no row of the command table
UNKNOWN = "unknown id"


@dataclass
class Seen:
    """What was exercised. ``commands`` counts (name, status) of the mailbox, ``statuses`` what any party refused with,
    ``layouts`` the byte maps of each structure, parts of others included, ``handled`` the structures beside its buffer
    that the firmware read or wrote in a command: (command, structure), parts of others left out."""

    commands: Counter[tuple[str, str]] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    layouts: Counter[str] = field(default_factory=Counter)
    handled: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, other: Seen) -> None:
        """Add another's counts to these."""
        self.commands.update(other.commands)
        self.statuses.update(other.statuses)
        self.layouts.update(other.layouts)
        self.handled.update(other.handled)

    def names(self) -> dict[str, Any]:
        """The same without counts, in an order of its own: what ``as_json`` writes of a cell."""
        found: dict[str, Any] = {}
        if answered := {name for name, _ in self.commands}:
            found["commands"] = {
                name: [s.name for s in Status if self.commands[name, s.name]]
                for name in (*BY_NAME, UNKNOWN)
                if name in answered
            }
        if self.statuses:
            found["statuses"] = [s.name for s in Status if self.statuses[s.name]]
        if self.layouts:
            found["layouts"] = sorted(self.layouts)
        if self.handled:
            found["handled"] = {}
            for command, layout in sorted(self.handled):
                found["handled"].setdefault(command, []).append(layout)
        return found

    def missing_commands(self) -> list[str]:
        """Commands that never answered SUCCESS, in the order of the command table."""
        return [name for name in BY_NAME if not self.commands[name, "SUCCESS"]]

    def missing_statuses(self) -> list[str]:
        """Statuses that nobody answered, by number."""
        answered = {status for _, status in self.commands} | set(self.statuses)
        return [status.name for status in Status if status.name not in answered]

    def missing_layouts(self, names: Iterable[str]) -> list[str]:
        """Of these structures, those that no byte map showed."""
        return [name for name in names if not self.layouts[name]]

    def refusals(self, command: str) -> list[str]:
        """With what a command was refused, by the status's number."""
        return [s.name for s in Status if s is not Status.SUCCESS and self.commands[command, s.name]]

    def text(self, layouts: Iterable[str]) -> str:
        """The report: per command its answers, then what is missing."""
        lines = []
        for name in BY_NAME:
            ok, refused = self.commands[name, "SUCCESS"], ", ".join(self.refusals(name))
            lines.append(f"{name:<20} {ok:>6} times SUCCESS; refused with: {refused or '-'}")
        found = (self.missing_commands(), self.missing_statuses(), self.missing_layouts(layouts))
        for what, names in zip(("commands without SUCCESS", "statuses", "structures"), found, strict=True):
            lines.append(f"{what} that no notebook shows: {', '.join(names) or '-'}")
        return "\n".join(lines)


@contextmanager
def recorder() -> Iterator[Seen]:
    """Count everything in this process until the block ends."""
    seen, drawing, running, inside = Seen(), 0, "", 0
    command, refuse = SecureProcessor.command, SevError.__init__
    rows, describe = bytemap._rows, Layout.describe
    parse, pack = Layout.parse.__func__, Layout.pack  # type: ignore[attr-defined]

    def counted_command(sp: SecureProcessor, command_id: int, address: int = 0) -> Status:
        nonlocal running
        running = COMMANDS[command_id].name if command_id in COMMANDS else UNKNOWN
        try:
            status = command(sp, command_id, address)
            seen.commands[running, status.name] += 1
        finally:
            running = ""
        return status

    def counted_error(error: SevError, status: Status, *arguments: Any, **options: Any) -> None:
        refuse(error, status, *arguments, **options)
        seen.statuses[Status(status).name] += 1

    def counted_rows(source: Any) -> Any:
        nonlocal drawing
        drawing += 1
        try:
            return rows(source)
        finally:
            drawing -= 1

    def counted_describe(layout: Layout, **options: Any) -> Any:
        if drawing:  # describe() serves others too
            seen.layouts[type(layout).__name__] += 1
        return describe(layout, **options)

    def handle(cls: type[Layout], work: Callable[[], Any]) -> Any:
        """Count a structure that is no part of another and not the command's own buffer."""
        nonlocal inside
        inside += 1
        try:
            if running and inside == 1 and cls is not getattr(BY_NAME.get(running), "buffer", None):
                seen.handled[running, cls.__name__] += 1
            return work()
        finally:
            inside -= 1

    def counted_parse(cls: type[Layout], *arguments: Any, **options: Any) -> Any:
        return handle(cls, lambda: parse(cls, *arguments, **options))

    def counted_pack(layout: Layout) -> bytes:
        return bytes(handle(type(layout), lambda: pack(layout)))

    with (
        patch.object(SecureProcessor, "command", counted_command),
        patch.object(SevError, "__init__", counted_error),
        patch.object(bytemap, "_rows", counted_rows),
        patch.object(Layout, "describe", counted_describe),
        patch.object(Layout, "parse", classmethod(counted_parse)),
        patch.object(Layout, "pack", counted_pack),
    ):
        yield seen


def code_cells(path: Path) -> list[str]:
    """Sources of a notebook's code cells. ``InputError`` for a file that is no notebook."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(str(path), "a notebook (JSON with cells)", type(error).__name__) from None


def record_cells(path: str | Path) -> list[Seen]:
    """Run a notebook's cells here and count, cell by cell. An error in a cell is raised. What the cells display is
    drawn, not shown.

    One notebook per process: they share nothing then, as in their kernels."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    from sevref import show

    path, here = Path(path).resolve(), Path.cwd()
    cells, found = code_cells(path), []
    quiet = Config({"HistoryManager": {"enabled": False}})
    os.chdir(path.parent)
    try:
        with TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            shell = InteractiveShell(config=quiet, ipython_dir=folder)
            show.register(shell)
            for source in cells:
                with recorder() as seen:
                    shell.run_cell(source, store_history=False).raise_error()
                found.append(seen)
    finally:
        os.chdir(here)
    return found


def record(path: str | Path) -> Seen:
    """What all cells of a notebook exercise together."""
    together = Seen()
    for seen in record_cells(path):
        together.add(seen)
    return together


def as_json(notebooks: dict[str, list[Seen]]) -> str:
    """The text of ``data/site/coverage.json``: notebook -> number of the code cell -> what it exercises.

    A line per cell; cells that exercise nothing are left out."""
    parts = []
    for name, cells in sorted(notebooks.items()):
        lines = [f'  "{i}": {json.dumps(seen.names())}' for i, seen in enumerate(cells, 1) if seen.names()]
        parts.append(f' "{name}": {{\n' + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"
