"""Pages as MyST Markdown: text that stays text, tables, links to addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

#: page (path below the site's sources) -> text
Pages = dict[str, str]


def text(value: object) -> str:
    """Words in which no character means anything to Markdown; ``code`` between backticks stays code."""
    parts = re.split(r"(``.+?``|`[^`]+`)", " ".join(str(value).split()))
    plain = (re.sub(r"([\\*_<>\[\]{}$#|~])", r"\\\1", part) for part in parts[::2])
    codes = [code(part.strip("`")) for part in parts[1::2]] + [""]
    return "".join(word + mono for word, mono in zip(plain, codes, strict=True))


def code(value: object) -> str:
    """A name in a fixed-width face."""
    return f"`{str(value).replace('|', chr(92) + '|')}`" if str(value) else ""


def anchor(kind: str, name: str) -> str:
    """Address of a thing: ``anchor("status", "INVALID_LENGTH")`` is ``status-invalid-length``."""
    return f"{kind}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}"


def target(address: str) -> str:
    """The line that gives what follows an address."""
    return f"({address})=\n"


def link(words: str, address: str) -> str:
    """A link to an address of this site."""
    return f"[{words}](#{address})"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def toctree(names: Iterable[str], caption: str = "", *, hidden: bool = False) -> str:
    """The pages below a page."""
    options = [":maxdepth: 1"] + [f":caption: {caption}"] * bool(caption) + [":hidden:"] * hidden
    return "\n".join(["```{toctree}", *options, "", *names, "```", ""])


def raw_html(html: str) -> str:
    """HTML as it is, in a block of its own."""
    return "\n".join(["````{raw} html", html, "````", ""])
