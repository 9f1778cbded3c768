"""Reading back what sevref.show wrote: a strict little HTML reader."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"br", "hr", "img", "input"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list["Element | str"] = field(default_factory=list)

    def all(self, tag: str | None = None, **attributes: str) -> list["Element"]:
        """Every element inside with this tag and these attributes."""
        found: list[Element] = []
        for child in self.children:
            if isinstance(child, Element):
                wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
                if tag in (None, child.tag) and wanted.items() <= child.attributes.items():
                    found.append(child)
                found += child.all(tag, **attributes)
        return found

    def text(self, without: tuple[str, ...] = ()) -> str:
        parts = [
            child if isinstance(child, str) else "" if child.tag in without else child.text(without)
            for child in self.children
        ]
        return "".join(parts)

    @property
    def style(self) -> dict[str, str]:
        pairs = (part.split(":", 1) for part in self.attributes.get("style", "").split(";") if part)
        return {name.strip(): value.strip() for name, value in pairs}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("root", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute of <{tag}> twice"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(html: str) -> Element:
    """The elements of ``html``; fails on tags that do not nest."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == [reader.root], f"<{reader.open[-1].tag}> is not closed"
    return reader.root


def hex_bytes(dump: Element) -> list[str]:
    """The byte tokens of a byte map's dump, in order: two hex digits or a mask standing alone."""
    tokens: list[str] = []

    def walk(element: Element) -> None:
        for child in element.children:
            if isinstance(child, str):
                continue
            if child.tag == "details":
                for line in child.text(("summary",)).splitlines():
                    tokens.extend(re.split(r"\s+", line.strip())[1:])
            elif child.style.get("padding") == "0 3.6px":
                tokens.extend(child.text().split())
            else:
                walk(child)

    walk(dump)
    return tokens
