"""The words in data/site name exactly what there is, and what they say of docstrings and of Markdown holds."""

import tomllib

import pytest

from sevref.firmware import COMMANDS
from sevref.resources import data_path
from sevref.site import markdown
from sevref.site.docstrings import rewritten
from sevref.site.words import load


def test_every_command_has_its_words():
    words = load("commands.toml")
    assert list(words) == [row.name for row in COMMANDS.values()]
    assert all(entry["does"].endswith((".", "?")) and entry["changes"] for entry in words.values())


def test_every_key_has_four_answers():
    for name, key in load("keys.toml").items():
        assert set(key) == {"name", "kind", "by", "made", "lives", "protects", "dies"}, name
        assert all(key[field].endswith(".") for field in ("made", "lives", "protects", "dies")), name


def test_the_glossary_is_sorted_and_covers_the_keys():
    words = list(load("glossary.toml"))
    assert words == sorted(words, key=str.lower)
    assert set(load("keys.toml")) - {"Z"} <= set(words)


@pytest.mark.parametrize("name", ["keys", "commands", "glossary", "questions"])
def test_tables_parse(name):
    assert tomllib.loads(data_path("site", f"{name}.toml").read_text())


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
        "::",
        "",
        "       code_ *",
        "",
        "end\\_",
        "",
    ]
    assert rewritten(given) == shown
