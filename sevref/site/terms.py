"""Sphinx extension: the first use of a glossary's word in the running text of a page links to the glossary."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

from sevref.site.words import load

#: text in these stays as it is
_KEEP = (nodes.reference, nodes.title, nodes.literal, nodes.literal_block, nodes.term, nodes.raw, nodes.target)
#: pages without such links: the glossary, and lists that link everything anyway
_PAGES = ("glossary", "genindex", "search")


def link_terms(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Event ``doctree-resolved``."""
    if docname in _PAGES or docname.startswith("api/"):
        return
    left = {term.split(" (")[0]: term for term in load("glossary.toml")}
    pattern = re.compile(
        r"(?<![\w-])(" + "|".join(map(re.escape, sorted(left, key=len, reverse=True))) + r")s?(?![\w-])"
    )
    targets = app.env.domains.standard_domain.objects
    for node in list(doctree.findall(nodes.Text)):
        if not left or any(isinstance(parent, _KEEP) for parent in _parents(node)):
            continue
        place = node.parent.index(node)
        before = node.parent[place - 1] if place else None
        if isinstance(before, nodes.raw) and not before.astext().startswith("</"):  # inside an element of HTML
            continue
        made: list[nodes.Node] = []
        position, words = 0, node.astext()
        for found in pattern.finditer(words):
            term = left.pop(found[1], None)
            if term is None:
                continue
            page, address = targets["term", term]
            made.append(nodes.Text(words[position : found.start()]))
            shown = nodes.inline("", found[0], classes=["term-link"])
            made.append(make_refnode(app.builder, docname, page, address, shown))
            position = found.end()
        if made:
            made.append(nodes.Text(words[position:]))
            node.parent.replace(node, [part for part in made if part.astext()])


def _parents(node: nodes.Node) -> list[nodes.Node]:
    found = []
    while node.parent is not None:
        node = node.parent
        found.append(node)
    return found


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("doctree-resolved", link_terms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
