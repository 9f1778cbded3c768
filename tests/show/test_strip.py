"""What is left of every output where styles, drawings and pictures are stripped says what its text form says."""

import json
import re
from collections.abc import Iterator

import pytest

from sevref.show import palette
from show.page import read
from show.strip import lines, run_together, sanitized, stripped
from show.test_html_rules import shown
from support import ROOT

#: a row of a byte map, as drawn and as text
DRAWN = re.compile(r"([0-9a-f]{4,})[* ]((?: {1,2}(?:[0-9a-f]{2}|••)){1,16})(?: |$)")
TEXT = re.compile(r"0x([0-9A-F]+)[* ] ((?:(?:[0-9a-f]{2}|••)(?: |$)){1,16})(?: *)(.*)")
LEFT_OUT = re.compile(r" +\.\.\. \d+ more bytes")
SIZE = re.compile(r"(?:^|: )(\d+) bytes$")
HEAD = re.compile(r"\b\d+ bytes \(0x[0-9A-F]+\)$")
CSS = re.compile(r"\b(font-family|font-size|padding|margin|border|display|background|color|stroke|viewBox)\s*[:=]")


def outputs(name: str) -> Iterator[tuple[str, str, str]]:
    """Cell, HTML and text of a stored notebook's outputs."""
    for cell in json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "text/html" in data:
                yield cell["id"], "".join(data["text/html"]), "".join(data["text/plain"])


def cases(name: str) -> list[tuple[str, str, str]]:
    if name in shown():
        return [(name, shown()[name]._repr_html_(), shown()[name].text())]
    return list(outputs(name))


def rows(text: list[str], pattern: re.Pattern[str], again: re.Pattern[str]) -> list[dict[int, str]]:
    """Byte maps in order: offset -> byte. One begins where ``again`` is found."""
    maps: list[dict[int, str]] = []
    for line in text:
        if again.search(line):
            maps.append({})
        if found := pattern.match(line):
            offset = int(found[1], 16)
            if maps:
                maps[-1] |= {offset + i: byte for i, byte in enumerate(found[2].split())}
    return [one for one in maps if one]


def words(text: str) -> list[str]:
    """Words without the signs around them; no bytes, no offsets of rows, no words on what a text leaves out."""
    spoken = []
    for line in text.splitlines():
        row = TEXT.match(line)
        if not LEFT_OUT.match(line):
            spoken += [word.strip("[](),:;*.…→>=-") for word in (row[3] if row else line).split()]
    return [word for word in spoken if word]


NAMES = [*shown(), *sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))]


@pytest.mark.parametrize("name", NAMES)
class TestWhatIsLeft:
    def test_says_every_word_of_the_text(self, name: str) -> None:
        for where, html, text in cases(name):
            left = words("\n".join(lines(stripped(html, drawings=False))))
            assert not [word for word in words(text) if word not in left], where

    def test_has_as_many_marks(self, name: str) -> None:
        """Where a verdict is a mark, each stays: none of them is a colour alone."""
        for where, html, text in cases(name):
            left = "\n".join(lines(stripped(html, drawings=False)))
            assert all(left.count(mark) >= text.count(mark) for mark in "✓✗○◀"), where

    def test_has_every_byte_at_its_offset(self, name: str) -> None:
        for where, html, text in cases(name):
            page = lines(stripped(html))
            told, drawn = rows(text.splitlines(), TEXT, SIZE), rows(page, DRAWN, HEAD)
            assert len(told) == len(drawn), where
            cut = any("more bytes are not drawn" in line for line in page)
            for a, b in zip(told, drawn, strict=True):
                assert list(b) == list(range(min(b), min(b) + len(b))), where
                assert all(b[offset] == byte for offset, byte in a.items() if offset in b or not cut), where

    def test_has_every_field_with_offset_and_size(self, name: str) -> None:
        for where, html, text in cases(name):
            page = lines(stripped(html))
            for line in text.splitlines():
                if (row := TEXT.match(line)) and row[3]:
                    assert line in page or any(self.tells(one, row) for one in page), (where, line)

    @staticmethod
    def tells(line: str, row: re.Match[str]) -> bool:
        """Whether a line of a table has this field's name and offset and a size that goes with the bytes in ``row``."""
        cells = line.split(" | ")
        if len(cells) < 5 or not re.fullmatch("0x[0-9A-F]+", cells[1]) or not cells[2].isdigit():
            return False
        name = re.match(re.escape(cells[0]) + r"(?: \((\d+) bytes\))?(?: = .*)?: ?", row[3])
        size = int(name[1]) if name and name[1] else len(row[2].split())
        return bool(name) and int(cells[1], 16) == int(row[1], 16) and int(cells[2]) == size

    def test_has_no_words_run_together(self, name: str) -> None:
        for where, html, _ in cases(name):
            for left in (stripped(html), stripped(html, drawings=False), sanitized(html)):
                assert not run_together(left), where

    def test_has_no_empty_tables_and_no_heaps_of_numbers(self, name: str) -> None:
        for where, html, _ in cases(name):
            page = read(stripped(html))
            for table in page.all("table"):
                assert len(table.all("tr")) > 1 and all(row.text().strip() for row in table.all("tr")), where
            for line in lines(stripped(html), without=("pre", "table")):
                assert not re.search(r"(?:^|\s)(?:[^A-Za-z\s]+\s+){4}[^A-Za-z\s]+(?:\s|$)", line), (where, line)

    def test_has_no_styles_as_text_and_no_attributes(self, name: str) -> None:
        for where, html, _ in cases(name):
            left = stripped(html)
            assert not CSS.search("\n".join(lines(left))), where
            given = {attribute for element in read(left).all() for attribute in element.attributes}
            assert given <= {"open", "alt", "colspan"}, where

    def test_jupyterlab_keeps_the_colours_of_bytes_and_chips(self, name: str) -> None:
        """Where the notebook is not trusted, tags of drawings go, and nothing else that is seen."""
        for where, html, _ in cases(name):
            before, after = read(html), read(sanitized(html))
            assert not after.all("svg") and not after.all("rect"), where
            solid = [e.style["background"] for e in before.all("span") if e.style.get("color") == palette.ON_SOLID]
            assert solid == [
                e.style["background"] for e in after.all("span") if e.style.get("color") == palette.ON_SOLID
            ]


def test_the_models_strip() -> None:
    page = (
        '<div style="display:flex;color:inherit" title="t" role="group"><b id="x">1</b><mark>2</mark>'
        '<svg role="img"><text x="1">3</text> and</svg><img src="data:,x" alt="four"><script>5</script></div>'
    )
    assert stripped(page) == '<div><b>1</b>23 and<img alt="four"></div>'
    assert stripped(page, drawings=False) == '<div><b>1</b>2<img alt="four"></div>'
    left = read(sanitized(page))
    assert [element.tag for element in left.all()] == ["div", "b", "mark", "img"]
    assert left.all("div")[0].attributes == {"style": "display:flex", "title": "t"}
    assert left.text() == "123 and"


def test_lines_and_words_that_touch() -> None:
    page = "<div><p>a  <b>b</b>c</p><pre>1\n 2</pre><table><tr><td>x</td><td><div>y</div><div>z</div></td></tr></table></div>"
    assert lines(page) == ["a bc", "1", " 2", "x | y z"]
    assert lines(page, without=("pre", "table")) == ["a bc"]
    assert run_together(page) == ["b|c"]
    assert not run_together("<b>a</b> <b>b</b><br>c<table><tr><td>d</td><td>e</td></tr></table>")
    assert run_together("<span>field</span><span>reserved</span>") == ["field|reserved"]
