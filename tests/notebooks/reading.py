"""How long a notebook takes to read: the minutes that the notebooks state.

    .venv/bin/python tests/notebooks/reading.py

prints what is measured. Prose is read at 200 words a minute (technical text; questions and their folded answers
count), a line of code takes 2 seconds, a table or picture 10. That is a way of counting, not a stopwatch; the folded
text form of a picture is not read.
"""

from __future__ import annotations

import json
import re
import sys
from math import ceil
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
WORDS_PER_MINUTE, LINE, PICTURE = 200, 2, 10  # words; seconds
Cells = list[dict[str, Any]]


def cells_of(path: Path) -> Cells:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def words(markdown: str) -> int:
    """Words of prose: without links' targets, tags and the lines that draw a table."""
    text = re.sub(r"\]\([^)]*\)|<[^>]*>|^\|[-| ]+\|$", " ", markdown, flags=re.MULTILINE)
    return len(re.findall(r"\w[\w'’-]*", text))


def seconds(cells: Cells) -> float:
    """Reading time of some cells."""
    total = 0.0
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            total += words(source) * 60 / WORDS_PER_MINUTE
        else:
            total += LINE * sum(bool(line.strip()) for line in source.splitlines()) + PICTURE * len(cell["outputs"])
    return total


def minutes(cells: Cells) -> int:
    return ceil(seconds(cells) / 60)


def first_section(cells: Cells) -> Cells:
    """The cells of the section "In short": from its heading to the next section."""
    heads = [i for i, cell in enumerate(cells) if "".join(cell["source"]).startswith("## ")]
    start = next(i for i in heads if "".join(cells[i]["source"]).startswith("## In short"))
    end = next((i for i in heads if i > start), len(cells))
    return cells[start:end]


def on_the_tour(cells: Cells) -> float:
    """Seconds for the question and the first section, without its code."""
    question = re.search(r"^\*\*Question\.\*\*.*$", "".join(cells[0]["source"]), re.MULTILINE)
    shown = sum(PICTURE * len(cell.get("outputs", ())) for cell in first_section(cells))
    prose = [cell for cell in first_section(cells) if cell["cell_type"] == "markdown"]
    return seconds(prose) + shown + words(question[0]) * 60 / WORDS_PER_MINUTE


def tour() -> float:
    """Minutes: 00 whole, of the others the question and the first section."""
    first, *others = (cells_of(path) for path in sorted(FOLDER.glob("*.ipynb")))
    return (seconds(first) + sum(map(on_the_tour, others))) / 60


def walk() -> float:
    """Minutes: everything."""
    return sum(seconds(cells_of(path)) for path in FOLDER.glob("*.ipynb")) / 60


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        print(f"{minutes(cells_of(path)):3} minutes  {path.stem}")
    print(f"{walk():3.0f} minutes  everything\n{tour():3.0f} minutes  the tour")


if __name__ == "__main__":
    sys.exit(main())
