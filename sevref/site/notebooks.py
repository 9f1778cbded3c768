"""Places in the stored notebooks: the section in which a command runs, is refused, or a structure is shown.

What each code cell exercises was recorded (``data/site/coverage.json``, see ``sevref.show.coverage``); headings are
read from the notebooks as they are. Words in ``data/site`` name a place by what happens there, so that no change of a
heading breaks a link: ``{{07 runs SEND_START}}``, ``{{09 refuses DBG_DECRYPT POLICY_FAILURE}}``,
``{{03 shows Session}}`` and, for cells that send no command, ``{{01 calls suspicious}}``: words in the cell's code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sevref import resources
from sevref.status import InputError, Status

#: the reference in words
_REFERENCE = re.compile(r"\{\{(\d\d) (runs|refuses|shows|calls) ([^}]+)\}\}")


@dataclass(frozen=True)
class Cell:
    """A code cell: the heading above it, whether that is of a numbered step, its code, and what it exercises."""

    notebook: str
    heading: str
    step: bool
    source: str
    seen: dict[str, Any]

    def link(self) -> str:
        """Link to the section that the cell is in."""
        words = re.sub(r"^\d+\. ", "", self.heading)
        return f"[{self.notebook[:2]}: {words}](/notebooks/{self.notebook}.ipynb#{section(self.heading)})"

    def answers(self, command: str) -> list[str]:
        """Statuses that a command answered here."""
        return list(self.seen.get("commands", {}).get(command, ()))

    def refused(self, status: Status) -> list[str]:
        """Commands that answered a status here."""
        return [command for command in self.seen.get("commands", ()) if status.name in self.answers(command)]

    def statuses(self) -> set[str]:
        """Statuses that anybody answered here: the firmware, or a check of another party."""
        answered = self.seen.get("commands", {}).values()
        return {*self.seen.get("statuses", ()), *(status for statuses in answered for status in statuses)}


def section(heading: str) -> str:
    """Address of a heading, as Sphinx makes it."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-").lstrip("0123456789-")


def for_the_site(path: Path) -> str:
    """A stored notebook without its links to the glossary in 00: the site's own lead to the word itself."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = re.sub(
                r"\[([^\]]*)\]\((?:00-start-here\.ipynb)?#Glossary\)", r"\1", "".join(cell["source"])
            )
    return json.dumps(notebook)


@cache
def titles() -> dict[str, str]:
    """Name of each notebook -> its title, in order."""
    found = {}
    for name, document in _documents().items():
        texts = ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "markdown"]
        found[name] = next(words for text in texts for level, words in headings(text) if level == 1)
    return found


def headings(markdown: str) -> list[tuple[int, str]]:
    """(Level, words) of each heading in a cell."""
    outside = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return [
        (len(found[1]), found[2].replace("`", "")) for found in re.finditer(r"^(#+) +(.+?) *$", outside, re.MULTILINE)
    ]


@cache
def _documents() -> dict[str, Any]:
    paths = sorted(resources.notebooks_path().glob("*.ipynb"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


@cache
def cells() -> tuple[Cell, ...]:
    """All code cells, notebook by notebook: those of numbered steps first, which explain what they do."""
    recorded = json.loads(resources.data_path("site", "coverage.json").read_text(encoding="utf-8"))
    found = []
    for name, document in _documents().items():
        heading, step, number = "", False, 0
        for cell in document["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                for level, heading in headings(source):
                    step = step if level > 2 else re.match(r"\d+\. ", heading) is not None
            elif cell["cell_type"] == "code":
                number += 1
                seen = recorded.get(name, {}).get(str(number), {})
                found.append(Cell(name, heading, step, source, seen))
    return tuple(sorted(found, key=lambda cell: (cell.notebook, not cell.step)))


def _first(test: Callable[[Cell], Any]) -> list[Cell]:
    """The first cell of each notebook that passes."""
    passed: dict[str, Cell] = {}
    for cell in cells():
        if cell.notebook not in passed and test(cell):
            passed[cell.notebook] = cell
    return list(passed.values())


def answering(command: str, status: Status) -> list[Cell]:
    """Where a command answers a status, once per notebook."""
    return _first(lambda cell: status.name in cell.answers(command))


def with_status(status: Status) -> list[Cell]:
    """Where anybody answers a status, once per notebook: the cell in which most commands do."""
    best: dict[str, Cell] = {}
    for cell in cells():
        if status.name in cell.statuses():
            other = best.get(cell.notebook)
            if other is None or len(other.refused(status)) < len(cell.refused(status)):
                best[cell.notebook] = cell
    return list(best.values())


def showing(layout: str) -> list[Cell]:
    """Where a structure is shown as a byte map, once per notebook."""
    return _first(lambda cell: layout in cell.seen.get("layouts", ()))


def links(found: Iterable[Cell]) -> str:
    """Links to the sections of cells."""
    return "; ".join(cell.link() for cell in found)


def place(number: str, what: str, names: str) -> Cell:
    """The first cell of notebook ``number`` that a reference means; ``InputError`` if there is none."""
    name, *more = names.split(" ")
    tests: dict[str, Callable[[Cell], Any]] = {
        "runs": lambda cell: "SUCCESS" in cell.answers(name),
        "refuses": lambda cell: set(more) & set(cell.answers(name)),
        "shows": lambda cell: name in cell.seen.get("layouts", ()),
        "calls": lambda cell: names in cell.source,
    }
    for cell in cells():
        if cell.notebook.startswith(number) and tests[what](cell):
            return cell
    raise InputError(f"notebook {number}", f"a cell that {what} {names}", "none")


def linked(words: str) -> str:
    """Words with each reference turned into a link."""
    return _REFERENCE.sub(lambda found: place(found[1], found[2], found[3]).link(), words)
