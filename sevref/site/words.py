"""Pages written by hand (``data/site/pages``, the README, the protocol, the trace format) and pages of words that stand
in ``data/site/*.toml``: keys, glossary, questions."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from sevref import resources
from sevref.firmware import BY_NAME
from sevref.firmware.rules import rules
from sevref.show import cast, palette
from sevref.site import notebooks, recorded
from sevref.site.markdown import Pages, anchor, link, table, target, text, toctree

#: what is asked of each key, in the order of the page: field of keys.toml -> words
OF_A_KEY = {
    "made": "Who makes it",
    "lives": "Where does it live",
    "protects": "What does it protect",
    "dies": "When does it die",
}
#: what is asked of each command: end of the address -> words
OF_A_COMMAND = {"allowed": "When is it allowed", "checks": "What does it check", "changes": "What does it change"}


def load(name: str) -> dict[str, Any]:
    """The content of ``data/site/NAME``."""
    return tomllib.loads(resources.data_path("site", name).read_text(encoding="utf-8"))


def add(pages: Pages) -> None:
    """All pages of words."""
    for path in sorted(resources.data_path("site", "pages").glob("*.md")):
        pages[path.name] = notebooks.linked(path.read_text(encoding="utf-8"))
    walk = [f"{name[:2]} {title.split(':')[0]} <notebooks/{name}>" for name, title in notebooks.titles().items()]
    pages["index.md"] += toctree(walk, "Walkthrough", hidden=True) + toctree(
        [
            "About sevref <readme>",
            "cli/index",
            "check-your-implementation",
            "bug-as-a-trace",
            "protocol/index",
            "traces/index",
        ],
        "Use it",
        hidden=True,
    )
    pages["index.md"] += toctree(
        ["questions", "keys", "properties", "hypervisor", "glossary"], "Answers", hidden=True
    ) + toctree(["commands/index", "statuses", "layouts", "states", "api/index"], "Reference", hidden=True)
    pages["keys.md"] = _keys()
    pages["glossary.md"] = _glossary()
    pages["questions.md"] = _questions()
    pages["readme.md"] = _readme()
    for folder in ("protocol", "traces"):
        pages[f"{folder}/index.md"] = resources.data_path(folder, "README.md").read_text(encoding="utf-8")
    pages["traces/index.md"] += "\n" + recorded.files()
    for path in sorted(resources.data_path("protocol").glob("client.*")):
        pages[f"protocol/{path.name}"] = path.read_text(encoding="utf-8")
    for path in sorted(resources.data_path("site", "examples").iterdir()):
        pages[f"examples/{path.name}"] = path.read_text(encoding="utf-8")
    pages["data/overview.svg"] = resources.data_path("overview.svg").read_text(encoding="utf-8")


def _readme() -> str:
    """The README; without a checkout that of the installed package. Links to folders of the repository become links to
    pages."""
    path = Path(resources.__file__).parent.parent / "README.md"
    if path.is_file():
        readme = path.read_text(encoding="utf-8")
    else:
        readme = str(metadata.distribution("sevref").read_text("METADATA")).partition("\n\n")[2]
    readme = re.sub(r"\]\(notebooks\)", "](index.md)", readme)
    return re.sub(r"\[LICENSE\]\(LICENSE\)", "the file LICENSE", readme)


def _keys() -> str:
    keys = load("keys.toml")
    parts = [
        "# Keys\n",
        "Of each key: who makes it, where it lives, what it protects, and when it dies.\n",
        table(
            ("key", "name", "kind", "made by"),
            [
                (
                    link(name, anchor("key", name)),
                    text(key["name"]),
                    text(key["kind"]),
                    cast.party(key["by"]).html() if key["by"] in palette.PARTIES else text(key["by"]),
                )
                for name, key in keys.items()
            ],
        ),
    ]
    for name, key in keys.items():
        address = anchor("key", name)
        parts += [target(address) + f"## {name}: {key['name']}\n", f"{cast.key(name).html()} {text(key['kind'])}.\n"]
        for field, words in OF_A_KEY.items():
            parts.append(target(f"{address}-{field}") + f"**{words}?** {key[field]}\n")
        if "seen" in key:
            parts.append(f"**Where is it seen?** {notebooks.linked(key['seen'])}\n")
    return "\n".join(parts)


def _glossary() -> str:
    terms = load("glossary.toml")
    lines = ["# Glossary\n", "The first use of each of these words on a page is a link to here.\n", "```{glossary}"]
    for term, words in terms.items():
        lines += [term, f"  {words}", ""]
    return "\n".join([*lines, "```", ""])


def first_sentence(words: str) -> str:
    """The first sentence of an answer."""
    return re.split(r"(?<=[a-z)*0-9])\. (?=[A-Z])", words)[0].removesuffix(".") + "."


def _questions() -> str:
    """Every question with a short answer, and the place of the whole one."""
    parts = [
        "# Questions\n",
        "What a reader of these pages must be able to say. Each question links to the place of its whole answer.\n",
        "## Of each key\n",
    ]
    for name, key in load("keys.toml").items():
        address = anchor("key", name)
        parts.append(f"### {name}: {text(key['name'])}\n")
        for field, words in OF_A_KEY.items():
            parts.append(f"- {link(words + '?', f'{address}-{field}')} {first_sentence(key[field])}")
        parts.append("")
    parts += ["## Of each command\n", _questions_of_commands()]
    for title, rows in load("questions.toml").items():
        parts.append(f"## {title}\n")
        for row in rows:
            places = "; ".join(notebooks.linked(place) for place in row["answers"])
            parts.append(f"**{text(row['question'])}** {row['answer']}\n\n{places}\n")
    return "\n".join(parts)


def _questions_of_commands() -> str:
    """When it is allowed, what it checks, what it changes: a row per command."""
    rows = []
    for name, words in load("commands.toml").items():
        row, found, address = BY_NAME[name], rules(name), anchor("command", name)
        states = [state.name for state in (*sorted(row.platform), *sorted(row.guest or ()))]
        number = "1 rule" if len(found) == 1 else f"{len(found)} rules"
        rows.append(
            (
                link(name, address),
                link(", ".join(states), f"{address}-allowed"),
                f"{text(words['checks'])} {link(number, f'{address}-checks')}",
                f"{text(words['changes'][0])} {link('More', f'{address}-changes')}",
            )
        )
    heads = ("command", *(f"{words}?" for words in OF_A_COMMAND.values()))
    return table(heads, rows)
