"""Sphinx extension: docstrings are plain text with ``code`` in it, and are shown as that.

Paragraphs, lists that start with ``-`` or ``*`` and indented blocks (shown as they stand) are all that they need;
nothing in a docstring can be wrong markup.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

from sevref.layout import Layout, layouts
from sevref.site.markdown import anchor

_BULLET = re.compile(r"([-*]) ")


def plain(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Event ``autodoc-process-docstring``: rewrites ``lines`` in place. Structures link to their table."""
    lines[:] = rewritten(lines)
    if isinstance(obj, type) and issubclass(obj, Layout) and layouts().get(obj.__name__) is obj:
        lines += ["", f":ref:`Its fields <{anchor('layout', obj.__name__)}>`.", ""]


def rewritten(lines: list[str]) -> list[str]:
    """The docstring as reStructuredText."""
    out: list[str] = []
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line)
            continue
        if block:
            out += _block(block, out)
            block = []
        if out and out[-1]:
            out.append("")
    return out


def _block(block: list[str], before: list[str]) -> list[str]:
    """One block of lines without an empty one."""
    if block[0].startswith(" "):  # stands as it is, in a block of ours
        inside = ["   " + line for line in block]
        while before and not before[-1]:
            before.pop()
        if before and before[-1].startswith("      "):
            return ["", *inside]
        language = "pycon" if block[0].lstrip().startswith(">>>") else "none"  # a list of values is no Python
        return ["", f".. code-block:: {language}", "", *inside]
    out: list[str] = []
    for number, line in enumerate(block):
        if bullet := _BULLET.match(line):
            if number and not out[-1].startswith(("- ", "  ")):
                out.append("")
            out.append("- " + line[bullet.end() :])
        elif line.startswith(" ") and out and out[-1].startswith(("- ", "  ")):
            out.append("  " + line.strip())
        elif line.startswith(" "):  # an indented line right below a sentence
            return [*_spans(out), *_block(block[number:], [])]
        else:
            out.append(line)
    return _spans(out)


def _spans(lines: list[str]) -> list[str]:
    """Code between backticks as literals, every other character as itself; code may run over the end of a line."""
    parts = re.split(r"(``.+?``|`[^`]+?`)", "\n".join(lines), flags=re.DOTALL)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = "``" + " ".join(part.strip("`").split()) + "``"
        else:
            text = re.sub(r"([\\*_|`])", r"\\\1", part.removesuffix("::") + ":" * part.endswith("::"))
            parts[i] = ("\\" if i and re.match(r"\w", text) else "") + text
    return "".join(parts).split("\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("autodoc-process-docstring", plain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
