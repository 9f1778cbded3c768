"""What every picture is made of: escaped text, inline styles, a text form, and a cap on the size.

Renderers of notebooks strip ``<style>`` and scripts, some strip every style and every ``<svg>``. So styles
are inline, structure is plain HTML (lines of ``<pre>``, tables, details) that reads in order without them, and every
picture has a text form.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape as _escape

from sevref.show import palette
from sevref.status import InputError, SevError, Status

#: the most that one output may weigh, in bytes of UTF-8
LIMIT = 200_000

SANS = "font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',sans-serif"
MONO = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
FRAME = f"{SANS};font-size:13px;line-height:1.5;text-align:left;max-width:100%;margin:6px 0 10px"
#: long words break where they must; JupyterLab knows the second value only in notebooks that it trusts
BREAK = "overflow-wrap:break-word;overflow-wrap:anywhere"
#: of a ``<pre>`` that is one for the sake of its lines alone, where styles are stripped; its look is given again
UNBOXED = "margin:0;padding:0;border:0;border-radius:0;background:transparent;color:inherit"


def escape(text: object) -> str:
    """Text for an element or an attribute in double quotes."""
    return _escape(str(text), quote=True).replace("&#x27;", "'")


class Showable:
    """Base of everything that ``sevref.show`` returns: HTML for notebooks, text for everybody else."""

    title: str = ""

    def text(self) -> str:
        """The same content as plain text."""
        raise NotImplementedError

    def html(self) -> str:
        """HTML with inline styles only. ``_repr_html_`` applies the cap."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        page = self.html()
        if len(page.encode()) <= LIMIT:
            return page
        text = self.text().encode()[: LIMIT // 8].decode(errors="ignore")
        return frame(
            heading(self.title, "too large to draw: the beginning of its text form"),
            preformatted(text + " ..."),
        )

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return self.text()


class Html(Showable):
    """A piece of HTML with the text that stands for it."""

    def __init__(self, html: str, text: str, title: str = "") -> None:
        self._html, self._text, self.title = html, text, title

    def text(self) -> str:
        return self._text

    def html(self) -> str:
        return self._html


class Stack(Showable):
    """Several showables below each other."""

    def __init__(self, *parts: Showable, title: str = "") -> None:
        self.parts, self.title = parts, title

    def text(self) -> str:
        return "\n\n".join([self.title] * bool(self.title) + [part.text() for part in self.parts])

    def html(self) -> str:
        return (heading(self.title) if self.title else "") + "".join(part._repr_html_() for part in self.parts)


def element(name: str, content: str, style: str = "", **attributes: object) -> str:
    """``<name ...>content</name>``; ``content`` is HTML already, attribute values are escaped here."""
    if style:
        attributes = {"style": style, **attributes}
    given = "".join(f' {_attribute(key)}="{escape(value)}"' for key, value in attributes.items())
    return f"<{name}{given}>{content}</{name}>"


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def frame(*parts: str) -> str:
    """The outermost element of a picture."""
    return element("div", "\n".join(part for part in parts if part), FRAME)


def heading(title: str, detail: str = "") -> str:
    """A picture's title and, beside it, what it is about."""
    if not title and not detail:
        return ""
    strong = element("strong", escape(title), "font-size:14px")
    small = element("span", escape(detail), "font-size:12px") if detail else ""
    return element(
        "div",
        f"{strong} {small}",
        "display:flex;flex-wrap:wrap;gap:0 10px;align-items:baseline;margin:0 0 6px",
    )


def scroll(content: str, label: str, *, drawing: bool = False) -> str:
    """A region that scrolls sideways when it is too wide; the keyboard reaches it and moves it. Of a ``drawing`` only
    words may be left; in a ``<pre>`` they keep their lines."""
    style = "overflow-x:auto;max-width:100%"
    name = "pre" if drawing else "div"
    style += f";white-space:pre-wrap;{UNBOXED}" if drawing else ""
    return element(name, content, style, tabindex=0, role="region", aria_label=label)


def preformatted(text: str) -> str:
    style = f"{UNBOXED};{MONO};font-size:12px;line-height:1.45;margin:4px 0;white-space:pre-wrap;{BREAK}"
    return element("pre", escape(text), style)


def as_text(text: str) -> str:
    """The text form, folded: what remains where pictures are stripped."""
    summary = element("summary", "as text", "cursor:pointer;font-size:12px")
    return element("details", summary + preformatted(text), "margin:4px 0 0")


def chip(label: str, colour: str, title: str = "") -> str:
    """A name on its own colour, white on solid."""
    style = f"background:{colour};color:{palette.ON_SOLID};border-radius:3px;padding:1px 6px;white-space:nowrap"
    return element("span", escape(label), style, **({"title": title} if title else {}))


def verdict(ok: bool | None, words: str, title: str = "") -> str:
    """Symbol and words of a verdict: a tick, a cross, or a circle for something that was not decided."""
    colour = palette.NEUTRAL if ok is None else palette.OK if ok else palette.BAD
    style = f"background:{palette.tint(colour)};border-left:3px solid {colour};padding:1px 7px 1px 6px"
    return element(
        "span",
        f"{symbol(ok)} {escape(words)}",
        style + ";border-radius:2px;display:inline-block;white-space:nowrap",
        **({"title": title} if title else {}),
    )


def symbol(ok: bool | None) -> str:
    return "○" if ok is None else "✓" if ok else "✗"


def status_words(status: object) -> tuple[bool | None, str]:
    """Whether a status means success, and its name with the number unless it is SUCCESS."""
    if status is None or status == "":
        return None, ""
    if isinstance(status, bool):
        return status, "yes" if status else "no"
    if isinstance(status, int):
        known = status in Status._value2member_map_
        name = Status(status).name if known else "status"
        return status == 0, name if status == 0 else f"{name} (0x{int(status):02X})"
    words = str(status)
    if words in Status.__members__:
        return status_words(Status[words])
    return words.upper() in ("OK", "ACCEPTED", "VALID", "SUCCESS", "DONE"), words


def answer(error: SevError | InputError, who: str = "") -> Showable:
    """An error as an answer: status, code and rule, or what was expected and found. Never a traceback. ``who`` names
    the party that answers where the error names no command."""
    if isinstance(error, SevError):
        words = f"{error.status.name} (0x{error.status:02X})"
        where = error.command or who
        return statement(False, words, [error.rule, f"The status means: {error.status.meaning}."], where)
    found = [f"expected {error.expected}", f"found {error.found}"]
    return statement(False, "input cannot be used", found, error.field)


def statement(ok: bool | None, words: str, lines: Iterable[str] = (), where: str = "") -> Html:
    """A verdict with sentences below it; ``where`` says who or what answered."""
    lines = list(lines)
    head = f"{symbol(ok)} {words}" + (f"  [{where}]" if where else "")
    return Html(card(ok, words, lines, where), "\n".join([head, *(f"  {line}" for line in lines)]))


def card(ok: bool | None, words: str, lines: Iterable[str] = (), where: str = "") -> str:
    """A verdict with sentences below it."""
    colour = palette.NEUTRAL if ok is None else palette.OK if ok else palette.BAD
    head = element("strong", f"{symbol(ok)} {escape(words)}")
    place = (
        element("code", escape(where), f"{MONO};font-size:12px;background:transparent;color:inherit") if where else ""
    )
    body = "".join(element("div", escape(line)) for line in lines)
    style = f"border-left:4px solid {colour};background:{palette.tint(colour, 0.12)};padding:6px 12px"
    return frame(element("div", f"{head} {place}{body}", f"{style};border-radius:2px;max-width:46em;{BREAK}"))
