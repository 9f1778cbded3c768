"""Where in the stored notebooks something is seen."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

from sevref import resources


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
def texts() -> dict[str, tuple[str, str]]:
    """Name of each notebook -> (its title, all that a reader of it sees: cells, and outputs in their text form)."""
    found = {}
    for path in sorted(resources.notebooks_path().glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        seen = ["".join(cell["source"]) for cell in cells]
        for cell in cells:
            for output in cell.get("outputs", ()):
                seen.append("".join(output.get("text", ())))
                seen.append("".join(output.get("data", {}).get("text/plain", ())))
        title = "".join(cells[0]["source"]).splitlines()[0].lstrip("# ").split(":")[0]
        found[path.stem] = title, "\n".join(seen)
    return found


def seen(*words: str, short: bool = False) -> str:
    """Links to the notebooks in which one of ``words`` is seen; ``short``: by their numbers alone."""
    pattern = re.compile("|".join(rf"(?<![\w.]){re.escape(word)}(?!\w)" for word in words))
    calls = re.compile("|".join(rf"\.{re.escape(word)}" for word in words if word.endswith("("))) if words else None
    return ", ".join(
        f"[{name[:2]}{'' if short else ' ' + title}](/notebooks/{name}.ipynb)"
        for name, (title, content) in texts().items()
        if pattern.search(content) or (calls and calls.pattern and calls.search(content))
    )
