"""A few strokes of SVG: boxes, lines with arrowheads, text of estimated width. No ids, no styles to strip.

Text takes the reader's colour (``currentColor``). Viewers that strip ``<svg>`` leave the words in it: elements are
written in reading order, and an ``aside`` between them, which no browser draws, makes lines and sentences of those
words. The drawing stands in a ``<pre>`` for that reason, and no other space is written between its elements.
"""

from __future__ import annotations

import textwrap

from sevref.show import palette
from sevref.show.html import as_text, element, escape, frame, heading, scroll

_SANS = "system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',sans-serif"
_MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"


def text_width(text: str, size: float = 13, mono: bool = False) -> float:
    """Width in pixels, on the generous side."""
    if mono:
        return 0.61 * size * len(text)
    return size * sum(_em(character) for character in text)


def _em(character: str) -> float:
    """Width of a character in ems, of the widest usual face (DejaVu Sans)."""
    if character.isupper() or character.isdigit() or character in "mw_—→✓✗○":
        return 0.69
    return 0.36 if character in " .,:;'|()[]ilj" else 0.59


def wrap(text: str, width: float, size: float = 13, mono: bool = False) -> list[str]:
    """``text`` in lines of at most ``width`` pixels (words longer than that stay whole)."""
    per = text_width(text, size, mono) / max(len(text), 1)
    return textwrap.wrap(text, max(8, int(width / per)), break_long_words=False) if text else []


class Svg:
    """A drawing of ``width`` by ``height`` pixels."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._parts: list[str] = []
        self._words = ""  # what a reader of the words alone has read so far

    def add(self, name: str, content: str = "", **attributes: object) -> None:
        self._parts.append(element(name, content, "", **attributes))

    def aside(self, words: str) -> None:
        """Words that are not drawn: character data of ``<svg>`` itself. ``"\\n"`` in front begins a line."""
        if not self._words:
            words = words.lstrip("\n")
        self._words += words
        self._parts.append(escape(words))

    def box(self, x: float, y: float, width: float, height: float, colour: str, *, strong: bool = False) -> None:
        """A rounded box, tinted and edged in ``colour``, with a solid bar on its left."""
        alpha = 0.3 if strong else 0.13
        self.add(
            "rect", x=n(x), y=n(y), width=n(width), height=n(height), rx=4,
            fill=colour, fill_opacity=alpha, stroke=colour, stroke_width=2.5 if strong else 1.2,
        )  # fmt: skip
        self.add("rect", x=n(x), y=n(y), width=5, height=n(height), rx=2, fill=colour)

    def text(
        self, x: float, y: float, text: str, *, size: float = 13, bold: bool = False, mono: bool = False,
        anchor: str = "start", fill: str = "currentColor",
    ) -> None:  # fmt: skip
        weight = {"font_weight": 600} if bold else {}
        if self._words and not self._words[-1].isspace() and self._words[-1] not in "(":
            self.aside(" ")
        self._words += text
        self.add(
            "text", escape(text), x=n(x), y=n(y), font_size=size, font_family=_MONO if mono else _SANS,
            text_anchor=anchor, fill=fill, **weight,
        )  # fmt: skip

    def line(
        self,
        points: list[tuple[float, float]],
        colour: str = "currentColor",
        *,
        dashed: bool = False,
        width: float = 1.6,
    ) -> None:
        path = "M" + " L".join(f"{n(x)} {n(y)}" for x, y in points)
        dash = {"stroke_dasharray": "4 4"} if dashed else {}
        self.add("path", d=path, fill="none", stroke=colour, stroke_width=width, stroke_linejoin="round", **dash)

    def arrow(self, points: list[tuple[float, float]], colour: str = "currentColor", *, dashed: bool = False) -> None:
        """A line whose last piece (horizontal or vertical) ends in an arrowhead."""
        (px, py), (x, y) = points[-2:]
        dx, dy = (x > px) - (x < px), (y > py) - (y < py)
        self.line([*points[:-1], (x - 6 * dx, y - 6 * dy)], colour, dashed=dashed)
        back = (x - 9 * dx, y - 9 * dy)
        left, right = (back[0] + 4.5 * dy, back[1] + 4.5 * dx), (back[0] - 4.5 * dy, back[1] - 4.5 * dx)
        corners = " ".join(f"{n(a)},{n(b)}" for a, b in ((x, y), left, right))
        self.add("polygon", points=corners, fill=colour)

    def __str__(self) -> str:
        raise NotImplementedError("use render")

    def document(self, label: str) -> str:
        """A file of its own: a margin, black text on white, whatever page it is shown on."""
        width, height, margin = self.width + 24, self.height + 24, 12
        ink, paper = palette.PAGES["dark"], palette.PAGES["light"]
        body = "".join(self._parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{-margin} {-margin} {n(width)} {n(height)}" '
            f'width="{n(width)}" height="{n(height)}" role="img" aria-label="{escape(label)}" color="{ink}" '
            f'font-family="system-ui, sans-serif">\n'
            f'<rect x="{-margin}" y="{-margin}" width="{n(width)}" height="{n(height)}" fill="{paper}"/>\n'
            f"{body}\n</svg>\n"
        )

    def render(self, label: str) -> str:
        """The ``<svg>`` element; it shrinks a little on narrow pages and then scrolls."""
        width, height = n(self.width), n(self.height)
        style = f"display:block;width:100%;max-width:{width}px;min-width:{n(0.86 * self.width)}px;height:auto"
        style += ";white-space:normal"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" aria-label="{escape(label)}" style="{style}">'
            f"{''.join(self._parts)}</svg>"
        )


def n(value: float) -> str:
    """A coordinate without needless digits."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def picture(title: str, detail: str, svg: Svg, text: str) -> str:
    """A drawing with its title and, folded, its text form."""
    return frame(
        heading(title, detail),
        scroll(svg.render(f"{title}; the text form stands below"), title, drawing=True),
        as_text(text),
    )


def verdict_colour(ok: bool | None) -> str:
    return palette.NEUTRAL if ok is None else palette.OK if ok else palette.BAD
