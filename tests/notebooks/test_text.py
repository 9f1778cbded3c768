"""The text of the notebooks: every one is built alike, says what its cells say, and links its words."""

from __future__ import annotations

import re

import links
import pytest
import reading

from sevref import Status
from support import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

#: numbers in prose that no cell can show, with the reason
NUMBERS = {
    "00-start-here": {200: "words a minute: how reading times are counted"},
    "12-attack-lab": {211: "bytes a second: a published figure, said to be one"},
}


def prose(path):
    return [cell["source"] for cell in reading.cells_of(path) if cell["cell_type"] == "markdown"]


def shown(path):
    """Code and the text of every output, without the bytes of dumps and long hex strings: those say any number."""
    parts = []
    for cell in reading.cells_of(path):
        if cell["cell_type"] == "code":
            told = [shown_by(cell), *("".join(output.get("text", "")) for output in cell["outputs"])]
            parts += [
                cell["source"],
                *(re.sub(r"\b(?:[0-9a-f]{2} {1,2}){2,}|\b[0-9a-f]{16,}\b", " ", text) for text in told),
            ]
    return "\n".join(parts)


@each
def test_built_alike(path):
    cells = reading.cells_of(path)
    text = prose(path)
    opening = cells[0]["source"]
    marks = ["**Question.**", "**Time.**", "**Property.**", "**Before this.**"]
    places = [opening.index(mark) for mark in marks]
    assert opening.startswith("# ") and places == sorted(places)
    assert re.search(r"\*\*Question\.\*\* .*\?", opening)
    assert "party_table(" in next(cell["source"] for cell in cells if cell["cell_type"] == "code")
    sections = re.findall(r"^## (.*)$", "\n".join(text), flags=re.MULTILINE)
    if path.stem != links.HOME:
        assert sections[0] == "In short"
        first = reading.first_section(cells)
        assert any(cell["cell_type"] == "code" and cell["outputs"] for cell in first)
        assert 40 <= sum(reading.words(cell["source"]) for cell in first if cell["cell_type"] == "markdown") <= 170
    assert sections[-1] == "Where this stands in the specification"
    assert "| subject | public specification | module |" in text[-1]
    attacks = re.compile(r"^## What an attacker tried$", re.MULTILINE)
    heading = next(i for i, cell in enumerate(cells) if attacks.search(cell["source"]))
    after = [shown_by(cell) for cell in cells[heading:] if cell["cell_type"] == "code"]
    assert any("What an attacker tried\n" in output for output in after)


def shown_by(cell):
    return "".join("".join(output.get("data", {}).get("text/plain", "")) for output in cell["outputs"])


@each
def test_questions_stand_along_the_way(path):
    """Two or three, each with its folded answer, none beside another one, none collected at the end."""
    text = prose(path)
    asked = [i for i, source in enumerate(text) for _ in re.findall(r"<details><summary>Question: ", source)]
    assert 2 <= len(asked) <= 3
    for source in text:
        for summary, answer in re.findall(r"<details><summary>(.*?)</summary>\n\n(.*?)\n</details>", source, re.DOTALL):
            assert summary.endswith("?") or "?" in summary, summary
            assert reading.words(answer) > 12
    assert len("".join(text).split("<details>")) - 1 == len(asked) == "".join(text).count("</details>")
    assert "## Questions" not in "\n".join(text)


@each
def test_the_time_is_what_is_counted(path):
    told = re.search(r"\*\*Time\.\*\* About (\d+) minutes\.", reading.cells_of(path)[0]["source"])
    assert int(told[1]) == reading.minutes(reading.cells_of(path))


def test_the_two_ways_through():
    text = "\n".join(prose(NOTEBOOKS[0]))
    rows = re.findall(r"^\| \[(\d\d) .*\| (\d+) \|$", text, flags=re.MULTILINE)
    assert [number for number, _ in rows] == [path.stem[:2] for path in NOTEBOOKS[1:]]
    for (_, told), path in zip(rows, NOTEBOOKS[1:], strict=True):
        assert int(told) == reading.minutes(reading.cells_of(path))
    hours = float(re.search(r"everything, about ([\d.]+) hours", text)[1])
    assert abs(hours * 60 - reading.walk()) <= 15
    told = int(re.search(r"the tour comes to (\d+) minutes", text)[1])
    assert "*A tour of 20 minutes*" in text and told == round(reading.tour()) <= 20


def numbers(markdown):
    """Numbers above nine that prose states: without addresses of sections and sources, names of algorithms, versions."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*#Glossary\)", r"\1", markdown)
    text = re.sub(r"^\| \[\d\d .*$|\[[^\]]*\]\([^)]*\)|<[^>]+>|^#+ .*$", " ", text, flags=re.MULTILINE)
    names = (
        r"[Ss]ections? \d+( (to|and) \d+)?", r"[Nn]otebooks? \d+", r"About \d+ minutes", r"the tour comes to \d+ minutes", r"SEV API \d+", r"SNP ABI \d+",
        r"et al\. \d{4}( and \d{4})?", r"\(\d{4}(, \d{4})*\)", r"volume 2, 15\.\d+ to 15\.\d+", r"[Ll]ines? \d+", r"SHA-\d+", r"AES-\d+", r"P-384",
        r"SP 800-108", r"API (version )?\d\.\d+", r"X\.509",
    )  # fmt: skip
    text = re.sub("|".join(names), " ", text)
    found = [value(word) for word in re.findall(r"(?<![\w.])(0x[0-9A-Fa-f]+|\d[\d,]*(?:\.\d+)?)(?!\w)", text)]
    return [number for number in found if number > 9]


def value(word):
    word = word.replace(",", "").replace("_", "")
    return int(word, 16) if word.startswith("0x") else float(word)


@each
def test_numbers_in_prose_come_from_cells(path):
    there = {value(word) for word in re.findall(r"0x[0-9A-Fa-f_]+|\d[\d,_]*(?:\.\d+)?", shown(path))}
    missing = {number for text in prose(path) for number in numbers(text)} - there
    assert missing == set(NUMBERS.get(path.stem, {}))


def test_a_number_from_nowhere_is_found():
    text = "In section 12 (SHA-256, API 0.24) 1,044 bytes, 0x413 of them, and 7 more. [12](x-12.ipynb) `A 99`."
    assert numbers(text) == [1044, 0x413, 99]


@each
def test_statuses_in_prose_come_from_cells(path):
    said = set(re.findall(r"\b[A-Z][A-Z_]{3,}\b", "\n".join(prose(path)))) & set(Status.__members__)
    assert said - set(re.findall(r"\b[A-Z][A-Z_]{3,}\b", shown(path))) == set()


@each
def test_first_uses_and_mentions_are_links(path):
    text = prose(path)
    assert links.linked(text, path.stem) == text


def test_what_is_linked():
    cells = [
        "# The VEK\n\n**Before this.** Notebook 03.\n\n`VEK` of [a VEK](x).",
        "Two VEKs; the VEK; see notebook 07.",
    ]
    assert links.linked(cells, "05-secret-injection") == [
        "# The VEK\n\n**Before this.** Notebook [03](03-key-transport.ipynb).\n\n`VEK` of [a VEK](x).",
        "Two [VEKs](00-start-here.ipynb#Glossary); the VEK; see [notebook 07](07-migration.ipynb).",
    ]
    assert links.linked(["A VEK."], "00-start-here") == ["A [VEK](#Glossary)."]
    done = links.linked(cells, "05-secret-injection")
    assert links.linked(done, "05-secret-injection") == done
    assert links.linked(["SEV-ES, not SEV: SEV_FEATURES"], "04-x") == [
        "[SEV-ES](00-start-here.ipynb#Glossary), not [SEV](00-start-here.ipynb#Glossary): SEV_FEATURES"
    ]


def test_how_time_is_counted():
    cells = [
        {"cell_type": "markdown", "source": "## In short\n\n" + "word " * 98 + "<b>x</b> | [y](z/w.ipynb)\n|---|---|"},
        {"cell_type": "code", "source": "a = 1\n\nb = 2", "outputs": [{}, {}]},
        {"cell_type": "markdown", "source": "## 1. Then"},
    ]
    assert reading.words(cells[0]["source"]) == 102
    assert reading.seconds(cells[:2]) == pytest.approx(102 * 0.3 + 4 + 20)
    assert reading.first_section(cells) == cells[:2] and reading.minutes(cells) == 1
