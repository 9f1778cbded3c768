"""Sphinx extension: the first paragraph of a page is its description, which search engines and shared links show."""

from __future__ import annotations

import html
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

#: characters of a description, beyond which nobody shows it
LIMIT = 160


def describe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Event ``html-page-context``: adds a ``meta`` element."""
    words = shortened(first_paragraph(doctree)) if doctree is not None else ""
    if words:
        context["metatags"] += f'\n<meta name="description" content="{html.escape(words)}" />'


def first_paragraph(doctree: nodes.document) -> str:
    """Its text; the lines of a table or of an output are none."""
    for paragraph in doctree.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section):
            return " ".join(paragraph.astext().split())
    return ""


def shortened(words: str) -> str:
    """Words up to ``LIMIT`` characters, cut between two of them."""
    if len(words) <= LIMIT:
        return words
    return words[: LIMIT - 1].rpartition(" ")[0].rstrip(",;:") + " …"


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("html-page-context", describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
