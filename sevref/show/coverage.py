"""What the notebooks exercise: which commands with which status, which structures as byte maps.

``record(path)`` runs a notebook's cells in this process, in an IPython shell as a kernel would, while ``recorder``
listens at the mailbox, at ``SevError`` and at ``byte_map``. A name that merely stands in a text does not count.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
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


@dataclass
class Seen:
    """What was exercised. ``commands`` counts (name, status) of the mailbox, ``statuses`` what any party refused with,
    ``layouts`` the byte maps of each structure, parts of others included."""

    commands: Counter[tuple[str, str]] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    layouts: Counter[str] = field(default_factory=Counter)

    def add(self, other: Seen) -> None:
        """Add another's counts to these."""
        self.commands.update(other.commands)
        self.statuses.update(other.statuses)
        self.layouts.update(other.layouts)

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
    seen, drawing = Seen(), 0
    command, refuse = SecureProcessor.command, SevError.__init__
    rows, describe = bytemap._rows, Layout.describe

    def counted_command(sp: SecureProcessor, command_id: int, address: int = 0) -> Status:
        status = command(sp, command_id, address)
        name = COMMANDS[command_id].name if command_id in COMMANDS else "unknown id"
        seen.commands[name, status.name] += 1
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

    with (
        patch.object(SecureProcessor, "command", counted_command),
        patch.object(SevError, "__init__", counted_error),
        patch.object(bytemap, "_rows", counted_rows),
        patch.object(Layout, "describe", counted_describe),
    ):
        yield seen


def code_cells(path: Path) -> list[str]:
    """Sources of a notebook's code cells. ``InputError`` for a file that is no notebook."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(str(path), "a notebook (JSON with cells)", type(error).__name__) from None


def record(path: str | Path) -> Seen:
    """Run a notebook's cells here and count. An error in a cell is raised. What the cells display is drawn, not shown.

    One notebook per process: they share nothing then, as in their kernels."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    from sevref import show

    path, here = Path(path).resolve(), Path.cwd()
    cells = code_cells(path)
    quiet = Config({"HistoryManager": {"enabled": False}})
    os.chdir(path.parent)
    try:
        with TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            shell = InteractiveShell(config=quiet, ipython_dir=folder)
            show.register(shell)
            with recorder() as seen:
                for source in cells:
                    shell.run_cell(source, store_history=False).raise_error()
    finally:
        os.chdir(here)
    return seen
