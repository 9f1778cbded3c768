"""What is left of an output where it is not trusted: two models of sanitizers, and the words as they are then read.

``sanitized`` is JupyterLab 4.6 on a notebook that is not trusted, as its page was seen to be: tags of drawings go and
their words stay, most inline styles stay. ``stripped`` is a harsh code-hosting viewer: nothing stays but plain tags;
drawings lose their tags or go with their words (``drawings=False``), and so do pictures.
"""

import re
from html import escape

from show.page import VOID, Element, read

#: go with what is in them
_SILENT = {"script", "style"}
_DRAWING = {"svg", "g", "rect", "path", "polygon", "text", "tspan", "line", "circle", "title", "desc", "defs"}
_PLAIN = (
    {"a", "b", "code", "details", "em", "h1", "h2", "h3", "h4", "h5", "h6", "li", "ol", "p", "pre", "span", "strong"}
    | {"sub", "sup", "summary", "table", "tbody", "td", "th", "thead", "tr", "ul", "br", "hr", "div", "img"}
)  # fmt: skip
_PLAIN_ATTRIBUTES = {"href", "alt", "open", "colspan", "rowspan", "align"}
#: declarations that JupyterLab's sanitizer does not know; all others that sevref.show writes stay
_LOST = re.compile(
    r"(color|line-height):inherit$|font-variant-numeric:|overflow-wrap:anywhere$|image-rendering:|(min|max)-width:[\d.]+ch$"
)
_LOST_ATTRIBUTES = {"role", "tabindex", "aria-label"}
_BLOCKS = {"details", "div", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "summary"} | {
    *("table", "tbody", "thead", "tr", "ul", "br")
}


def stripped(html: str, *, drawings: bool = True) -> str:
    """The harsh viewer. ``drawings``: whether the words of an ``<svg>`` stay when its tags go."""

    def keep(element: Element) -> tuple[bool, dict[str, str]]:
        return element.tag in _PLAIN, {k: v for k, v in element.attributes.items() if k in _PLAIN_ATTRIBUTES}

    return _write(read(html), keep, _SILENT if drawings else _SILENT | {"svg"})


def sanitized(html: str) -> str:
    """JupyterLab on a notebook that is not trusted."""

    def keep(element: Element) -> tuple[bool, dict[str, str]]:
        kept = {k: v for k, v in element.attributes.items() if k not in _LOST_ATTRIBUTES}
        if "style" in kept:
            kept["style"] = ";".join(part for part in kept["style"].split(";") if not _LOST.match(part.strip()))
        return element.tag not in _DRAWING, kept

    return _write(read(html), keep, _SILENT)


def _write(element: Element, keep, silent: set[str]) -> str:  # type: ignore[no-untyped-def]
    out = []
    for child in element.children:
        if isinstance(child, str):
            out.append(escape(child, quote=False))
        elif child.tag not in silent:
            kept, attributes = keep(child)
            inside = _write(child, keep, silent)
            given = "".join(f' {name}="{escape(value)}"' for name, value in attributes.items())
            end = "" if child.tag in VOID else f"</{child.tag}>"
            out.append(f"<{child.tag}{given}>{inside}{end}" if kept else inside)
    return "".join(out)


def lines(html: str, without: tuple[str, ...] = ()) -> list[str]:
    """The lines that a reader sees when there are no styles: a block begins one, the cells of a row stand in one, with
    a bar between them, and spaces count in ``<pre>`` alone. Pictures are their alternative texts. Elements called as in
    ``without`` are passed over."""
    found = [""]

    def walk(element: Element, pre: bool) -> None:
        for child in element.children:
            if isinstance(child, str):
                if pre:
                    first, *rest = child.split("\n")
                    found[-1] += first
                    found.extend(rest)
                else:
                    found[-1] += re.sub(r"\s+", " ", child)
                continue
            if child.tag in without:
                continue
            block = child.tag in _BLOCKS
            if block:
                found.append("")
            if child.tag in ("td", "th"):
                found[-1] += " | " if found[-1].strip() else ""
                inside = len(found)
                walk(child, pre)
                found[inside - 1 :] = [" ".join(part.strip() for part in found[inside - 1 :] if part.strip())]
            elif child.tag == "img":
                found[-1] += child.attributes.get("alt", "")
            else:
                walk(child, pre or child.tag == "pre")
            if block:
                found.append("")

    walk(read(html), False)
    return [line.rstrip() for line in found if line.strip()]


def run_together(html: str) -> list[str]:
    """Where the words of two elements touch: no space, no cell and no block between them."""
    found: list[str] = []
    last = ""  # what stands directly before, "" after a boundary

    def walk(element: Element) -> None:
        nonlocal last
        for child in element.children:
            if isinstance(child, str):
                if last[-1:].isalnum() and child[:1].isalnum():
                    found.append(f"{last[-20:]}|{child[:20]}")
                last = child or last
                continue
            edge = child.tag in _BLOCKS or child.tag in ("td", "th", "img")
            last = "" if edge else last
            walk(child)
            last = "" if edge else last

    walk(read(html))
    return found
