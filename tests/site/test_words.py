"""The words in data/site name exactly what there is, and what they say of docstrings and of Markdown holds."""

import re
import tomllib

import pytest

from sevref.firmware import COMMANDS
from sevref.firmware.rules import rules
from sevref.resources import data_path
from sevref.site import description, markdown, notebooks
from sevref.site.docstrings import rewritten
from sevref.site.words import first_sentence, load
from sevref.status import InputError, Status


def test_every_command_has_its_words():
    words = load("commands.toml")
    assert list(words) == [row.name for row in COMMANDS.values()]
    for name, entry in words.items():
        assert {"does", "checks", "changes"} <= set(entry) <= {"does", "checks", "changes", "fails", "of"}, name
        assert all(line.endswith(".") for line in (entry["does"], entry["checks"], *entry["changes"])), name
        rows = {rule.sheet.split(";")[0] for rule in rules(name)}
        assert set(entry.get("of", ())) <= rows, name


def test_every_key_has_four_answers():
    for name, key in load("keys.toml").items():
        assert {*key, "seen"} == {"name", "kind", "by", "made", "lives", "protects", "dies", "seen"}, name
        assert all(key[field].endswith(".") for field in ("made", "lives", "protects", "dies")), name
        assert ("seen" in key) == (name not in ("VCEK", "VLEK")), name  # the notebooks are about SEV and SEV-ES


def test_the_glossary_is_sorted_and_covers_the_keys():
    words = list(load("glossary.toml"))
    assert words == sorted(words, key=str.lower)
    assert set(load("keys.toml")) - {"Z"} <= set(words)


@pytest.mark.parametrize("name", ["keys", "commands", "glossary", "questions"])
def test_tables_parse(name):
    assert tomllib.loads(data_path("site", f"{name}.toml").read_text())


def test_the_first_sentence_of_an_answer():
    assert first_sentence("At once. Later it is gone.") == "At once."
    assert first_sentence("KDF(Z, NONCE). More.") == "KDF(Z, NONCE)."
    assert first_sentence("See [INIT](#command-init) e.g. here.") == "See [INIT](#command-init) e.g. here."


WORDS = [path for path in sorted(data_path("site").rglob("*")) if path.suffix in (".md", ".toml")]


@pytest.mark.parametrize("path", WORDS, ids=lambda path: path.name)
def test_every_place_in_a_notebook_is_there(path):
    """A section that is gone, or no longer shows it, fails here, and so would the build."""
    assert "{{" not in notebooks.linked(path.read_text(encoding="utf-8"))


def test_a_place_that_is_not_there_is_an_error():
    for reference in ("{{07 runs NOP}}", "{{09 refuses NOP ACTIVE}}", "{{01 shows Session}}", "{{01 calls no such}}"):
        with pytest.raises(InputError, match="none"):
            notebooks.linked(reference)
    assert "{{07 eats NOP}}" in notebooks.linked("{{07 eats NOP}}")  # what the test above looks for


def test_places_are_found_by_what_happens_there():
    cells = notebooks.cells()
    numbered = [cell for cell in cells if cell.notebook == "08-snapshot"]
    assert len(numbered) > 10 and {"1", "2"} <= {cell.heading.partition(".")[0] for cell in numbered}
    assert notebooks.place("08", "runs", "SWAP_OUT").answers("SWAP_OUT") == ["SUCCESS"]
    assert re.match(r"\d+\. ", notebooks.place("04", "runs", "LAUNCH_MEASURE").heading)  # not a summary, nor an attack
    (where,) = (
        cell for cell in notebooks.answering("PEK_CERT_IMPORT", Status.ALREADY_OWNED) if cell.notebook[:2] == "02"
    )
    assert re.fullmatch(r"\[02: [^]]+\]\(/notebooks/02-ownership\.ipynb#[a-z0-9-]+\)", where.link())
    assert "04-launch-and-measurement" in [cell.notebook for cell in notebooks.showing("MeasureInput")]
    assert "PEK_CERT_IMPORT" in [
        name for cell in notebooks.with_status(Status.BAD_SIGNATURE) for name in cell.refused(Status.BAD_SIGNATURE)
    ]


def test_headings_and_their_addresses():
    assert notebooks.headings("# A `b` c\n\n```\n# no\n```\n### 2. D ") == [(1, "A b c"), (3, "2. D")]
    assert notebooks.section("1. AMD's real root keys") == "amd-s-real-root-keys"
    assert notebooks.section("9. ATTESTATION: a report for anybody") == "attestation-a-report-for-anybody"


def test_a_description_is_short():
    assert description.shortened("short") == "short"
    cut = description.shortened("word, " * 60)
    assert cut.endswith("word …") and 150 < len(cut) <= 160


def test_text_stays_text():
    assert markdown.text("a_b * [x] <y> | ``c_d`` `e|f`") == r"a\_b \* \[x\] \<y\> \| `c_d` `e\|f`"
    assert markdown.anchor("status", "INVALID_LENGTH") == "status-invalid-length"


def test_docstrings_are_plain_text():
    given = ["A *b* of `c`, ``d``s.", "", "- one", "  more", "- two::", "", "    code_ *", "", "end_"]
    shown = [
        "A \\*b\\* of ``c``, ``d``\\s.",
        "",
        "- one",
        "  more",
        "- two:",
        "",
        ".. code-block:: none",
        "",
        "       code_ *",
        "",
        "end\\_",
        "",
    ]
    assert rewritten(given) == shown
