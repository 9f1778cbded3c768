"""The command reference, from the parsers themselves."""

from __future__ import annotations

import argparse
import importlib
import re

from sevref.cli import COMMANDS, build_parser
from sevref.site.markdown import Pages, anchor, code, table, target, text, toctree


def add(pages: Pages) -> None:
    """A page per command and one that lists them."""
    parser = build_parser()
    children = _children(parser)
    names = []
    for name, (module, _) in COMMANDS.items():
        child = children[name]
        importlib.import_module(module).configure(child)
        pages[f"cli/{name}.md"] = _section(child, 1)
        names.append(name)
    rows = [
        (f"[sevref {name}](#{anchor('cli', f'sevref {name}')})", text(words)) for name, (_, words) in COMMANDS.items()
    ]
    pages["cli/index.md"] = "\n".join(
        [
            "# Command line\n",
            text(parser.description) + "\n",
            "Every command has `--help`. Exit code 0: done or verified; 1: checked and refused; 2: input that cannot "
            "be used. With `--json` standard output holds one JSON document.\n",
            table(("command", "what it does"), rows),
            toctree(names, hidden=True),
        ]
    )


def _children(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _helps(parser: argparse.ArgumentParser) -> dict[str, str]:
    """What a parser's list of commands says of each."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {choice.dest: choice.help or "" for choice in action._choices_actions}
    return {}


def _section(parser: argparse.ArgumentParser, level: int, words: str = "") -> str:
    parts = [
        target(anchor("cli", parser.prog)) + "#" * level + f" {parser.prog}\n",
        text(parser.description or words[:1].upper() + words[1:]) + "\n",
        f"```text\n{_usage(parser)}\n```\n",
    ]
    rows = [
        (_names(action), text(_help(action, parser)))
        for action in parser._actions
        if not isinstance(action, argparse._SubParsersAction) and action.help != argparse.SUPPRESS
    ]
    if rows:
        parts.append(table(("argument", "meaning"), rows))
    if parser.epilog:
        parts.append(_epilog(parser.epilog))
    helps = _helps(parser)
    parts += [_section(child, level + 1, helps.get(name, "")) for name, child in _children(parser).items()]
    return "\n".join(parts)


def _usage(parser: argparse.ArgumentParser) -> str:
    """The usage on one line, so that no terminal's width is in it; the page breaks it."""
    formatter = argparse.HelpFormatter(parser.prog, width=100_000)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")
    return formatter.format_help().strip()


def _names(action: argparse.Action) -> str:
    value = argparse.HelpFormatter("")._format_args(
        action, (action.dest if not action.option_strings else action.dest.upper())
    )
    names = action.option_strings or [""]
    return ", ".join(code(f"{name} {value}".strip()) for name in names)


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    words = argparse.HelpFormatter(parser.prog)._expand_help(action) if action.help else ""
    if action.choices and action.nargs != argparse.PARSER and not any(str(c) in words for c in action.choices):
        words += f" (one of {', '.join(map(str, action.choices))})"
    if action.required and action.option_strings:
        words += " (required)"
    return words


def _epilog(epilog: str) -> str:
    """The end of the help: paragraphs, and indented lines as they would be typed."""
    out: list[str] = []
    words: list[str] = []
    typed: list[str] = []
    for line in [*epilog.splitlines(), ""]:
        example = re.match(r"(examples?): (sevref .*)", line)
        if words and (not line or example or line.startswith("  ")):
            paragraph = " ".join(words)
            out.append(text(paragraph[0].upper() + paragraph[1:]) + "\n")
            words = []
        if typed and not line.startswith("  "):
            out.append("```sh\n" + "\n".join(typed) + "\n```\n")
            typed = []
        if example:
            out.append(f"{example[1].capitalize()}:\n\n```sh\n{example[2]}\n```\n")
        elif line.startswith("  "):
            typed.append(line[2:])
        elif line:
            words.append(line)
    return "\n".join(out)
