"""Links in the notebooks' text: a glossary's word where it is first used, and every mention of another notebook.

    .venv/bin/python tests/notebooks/links.py

puts in those that are missing. Code, headings, the summary of a folded question and the text of other links stay as they
are. The glossary is the last section but one of 00; the reading site has it as a page and links to the word itself.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
HOME = "00-start-here"
#: links, code, HTML tags, summaries and headings: nothing is linked inside
KEEP = r"\[[^\]]*\]\([^)]*\)|`[^`]*`|<summary>.*?</summary>|<[^>]+>|^#+ .*$"


@cache
def glossary() -> tuple[str, ...]:
    return tuple(tomllib.loads((ROOT / "data" / "site" / "glossary.toml").read_text(encoding="utf-8")))


@cache
def pattern() -> re.Pattern[str]:
    words = "|".join(map(re.escape, sorted(glossary(), key=len, reverse=True)))
    return re.compile(rf"({KEEP})|(?<![\w-])({words})(s?)(?![\w-])", re.MULTILINE)


@cache
def stems() -> dict[str, str]:
    return {path.stem[:2]: path.stem for path in FOLDER.glob("*.ipynb")}


def mentions(text: str) -> str:
    """``text`` with links to the notebooks that it names by number."""

    def numbers(line: re.Match[str]) -> str:
        return re.sub(
            rf"({KEEP})|\b(0\d|1[0-3])\b",
            lambda m: m[1] or f"[{m[2]}]({stems()[m[2]]}.ipynb)",
            line[0],
        )

    text = re.sub(r"^\*\*Before this\.\*\*.*$", numbers, text, flags=re.MULTILINE)
    return re.sub(
        rf"({KEEP})|\b([Nn]otebook (\d\d))\b",
        lambda m: m[1] or f"[{m[2]}]({stems()[m[3]]}.ipynb)",
        text,
        flags=re.MULTILINE,
    )


def linked(sources: list[str], name: str) -> list[str]:
    """The Markdown cells of notebook ``name``, in order, with every link that belongs there."""
    target = "#Glossary" if name == HOME else f"{HOME}.ipynb#Glossary"
    left = set(glossary())

    def first(found: re.Match[str]) -> str:
        kept, word, plural = found[1], found[2], found[3]
        if kept:
            shown = re.match(r"\[([^\]]*)\]\((.*)\)$", kept)
            if shown and shown[2] == target:
                left.difference_update({shown[1], shown[1].removesuffix("s")})
            return kept
        if word not in left:
            return found[0]
        left.discard(word)
        return f"[{word}{plural}]({target})"

    return [pattern().sub(first, mentions(source)) for source in sources]


def markdown(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = markdown(notebook)
        for cell, text in zip(cells, linked([cell["source"] for cell in cells], path.stem), strict=True):
            cell["source"] = text
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
