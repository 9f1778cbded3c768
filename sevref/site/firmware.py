"""Pages of the firmware interface, from its tables: commands with their rules, statuses, layouts, states."""

from __future__ import annotations

import importlib
import inspect
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

from sevref import show
from sevref.firmware import BODIES, BY_NAME, COMMANDS, GuestState, PlatformState
from sevref.firmware.commands import Command
from sevref.firmware.rules import Rule, rules
from sevref.layout import Layout, layouts
from sevref.site import api, notebooks, recorded
from sevref.site.markdown import Pages, anchor, code, link, raw_html, table, target, text, toctree
from sevref.site.words import load
from sevref.status import Status

#: groups of commands in the order of the command table, by the id's high digits
GROUPS = ("platform", "platform", "guests", "launch", "sending", "receiving", "debugging", "swapping")


def add(pages: Pages) -> None:
    """Commands, statuses, layouts, states."""
    built = {row.name: rules(row.name) for row in COMMANDS.values() if row.id in BODIES}
    words = load("commands.toml")
    for name, found in built.items():
        pages[f"commands/{name.lower()}.md"] = _command(BY_NAME[name], found, words[name])
    pages["commands/index.md"] = _commands(built, words)
    pages["statuses.md"] = _statuses(built)
    pages["layouts.md"] = _layouts()
    pages["states.md"] = _states(built)


def command_link(name: str) -> str:
    """Link to a command's page."""
    return link(name, anchor("command", name))


def status_link(status: Status) -> str:
    """Link to a status."""
    return link(code(status.name), anchor("status", status.name))


def layout_link(cls: type[Layout]) -> str:
    """Link to a layout's table."""
    return link(code(cls.__name__), anchor("layout", cls.__name__))


def _state_links(kind: str, states: Iterable[Any]) -> str:
    return ", ".join(link(code(state.name), anchor(kind, state.name)) for state in sorted(states))


# ---------------------------------------------------------------------------------------------- commands


def _commands(built: dict[str, tuple[Rule, ...]], words: dict[str, Any]) -> str:
    parts = [
        "# Firmware commands\n",
        "One page per command of the mailbox: when it is allowed, what it checks, in which order and with which "
        "status, and what it changes. The rules are read from the source that runs; `sevref why COMMAND` prints "
        "the same.\n",
        f"Every address passes {link('the address check', 'address-check')} first. Rules and statuses are those of the "
        "default profile, `SPEC_0_24`; where a recorded firmware answers otherwise there is a switch in "
        "{py:class}`sevref.firmware.profile.Profile`.\n",
        "A command that fails changes no state, except where its page says otherwise. An id that is in no row is "
        f"{status_link(Status.INVALID_COMMAND)}, whatever else is wrong.\n",
    ]
    for group in dict.fromkeys(GROUPS):
        rows = [
            (code(f"0x{BY_NAME[name].id:02X}"), command_link(name), text(words[name]["does"]))
            for name in built
            if GROUPS[BY_NAME[name].id >> 4] == group
        ]
        parts += [f"## {group.capitalize()}\n", table(("id", "command", "what it is for"), rows)]
    return "\n".join([*parts, toctree([*(name.lower() for name in built), "/address-check"], hidden=True)])


def _command(row: Command, found: tuple[Rule, ...], words: dict[str, Any]) -> str:
    address = anchor("command", row.name)
    facts = [("id", code(f"0x{row.id:02X}"))]
    if row.linux:
        facts.append(("Linux calls it", code(row.linux)))
    facts.append(("command buffer", _buffer(row)))
    if row.since:
        facts.append(("since API", f"{row.since[0]}.{row.since[1]}"))
    module = inspect.getmodule(BODIES[row.id])
    assert module is not None
    facts.append(("source", f"{api.module_link(module.__name__)}, {code(BODIES[row.id].__name__)}"))
    structures = ", ".join(layout_link(layouts()[name]) for name in handled().get(row.name, ()))
    facts.append(("reads or writes beside it", structures or "no structure"))
    checks = [
        (
            f"[{rule.order}]{{#{address}-rule-{rule.order}}}",
            status_link(rule.status),
            _rule(rule, words.get("of", {})),
            text(rule.sheet).replace(" ", "\N{NO-BREAK SPACE}").replace(";\N{NO-BREAK SPACE}", "; "),
        )
        for rule in found
    ]
    return "\n".join(
        [
            target(address) + f"# {row.name}\n",
            text(words["does"]) + "\n",
            table(("", ""), facts),
            target(f"{address}-allowed") + "## When it is allowed\n",
            _allowed(row),
            target(f"{address}-checks") + "## What it checks\n",
            text(words["checks"]) + "\n",
            "The rules, in the order in which they are checked: each row says what has to hold, or what must not be "
            "the case; the first that is broken gives its status. `<...>` stands for a value of the call. The last "
            "column is the place in the project's fact sheets, which record where each rule comes from.\n",
            table(("", "status", "rule", "sheet"), checks),
            target(f"{address}-changes") + "## What it changes\n",
            *(f"- {text(line)}" for line in words["changes"]),
            "",
            *([f"**When it fails.** {text(words['fails'])}\n"] if "fails" in words else []),
            target(f"{address}-seen") + "## Where it is seen\n",
            _in_notebooks(row.name),
            _in_traces(row.name),
        ]
    )


@cache
def handled() -> dict[str, list[str]]:
    """Structures beside its buffer that the firmware read or wrote in each command, as recorded in the notebooks."""
    found: dict[str, set[str]] = {}
    for cell in notebooks.cells():
        for command, names in cell.seen.get("handled", {}).items():
            found.setdefault(command, set()).update(names)
    return {command: sorted(names) for command, names in found.items()}


def _in_notebooks(name: str) -> str:
    """Where a command succeeds in the notebooks, and for each other status where it is answered."""
    shown = {status: notebooks.links(notebooks.answering(name, status)) for status in Status}
    runs = shown.pop(Status.SUCCESS)
    lines = [f"**In the notebooks** it succeeds in {runs}.\n" if runs else "**In the notebooks** it never succeeds.\n"]
    if rows := [(status_link(status), places) for status, places in shown.items() if places]:
        lines += ["It is refused:\n", table(("with", "in"), rows)]
    return "\n".join(lines)


def _in_traces(name: str) -> str:
    """How often AMD's firmware was recorded to answer what."""
    files = recorded.answers().get(name, {})
    if not files:
        return "**In the recorded traces** of AMD's firmware it does not occur.\n"
    total = sum(files.values(), Counter())
    rows = [
        (recorded.trace_link(file), ", ".join(f"{code(status)} {count}" for status, count in sorted(counts.items())))
        for file, counts in files.items()
    ]
    return (
        f"**In the recorded traces** AMD's firmware answers it {total.total()} times; "
        f"{link('sevref conform', 'cli-sevref-conform')} replays them.\n\n" + table(("file", "answers"), rows)
    )


def _rule(rule: Rule, of: dict[str, str]) -> str:
    """A rule's text; before it what its group is about, and the address check as a link."""
    about = of.get(rule.sheet.split(";")[0])
    words = text(rule.rule).replace("address check", link("address check", "address-check"))
    return f"*{about}:* {words}" if about else words


def _buffer(row: Command) -> str:
    if row.buffer is None:
        return f"none: {row.access.value}"
    return f"{layout_link(row.buffer)}, {row.size} bytes, {row.access.value}"


def _allowed(row: Command) -> str:
    lines = [f"- Platform: {_state_links('platform', row.platform)}."]
    if row.guest is not None:
        lines.append(f"- Guest: {_state_links('guest', row.guest)}.")
    elif row.next_guest is not None:
        lines.append("- Guest: a new one.")
    elif row.buffer is not None and any(field.name == "handle" for field in row.buffer.fields):
        lines.append("- Guest: any; the handle may also name none.")
    if row.bound:
        lines.append(f"- The guest has an ASID; without one {status_link(Status.INACTIVE)}.")
    if row.next_platform is not None:
        lines.append(f"- Leads to platform state {_state_links('platform', [row.next_platform])}.")
    if row.next_guest is not None:
        lines.append(f"- Leads to guest state {_state_links('guest', [row.next_guest])}.")
    if row.next_platform is None and row.next_guest is None:
        lines.append("- Leads to no other state.")
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------------- statuses


def _statuses(built: dict[str, tuple[Rule, ...]]) -> str:
    parts = [
        "# Status codes\n",
        "What a command answers: 16 bits. `0x00` to `0x18` are the set of SEV and SEV-ES, the others came with SEV-SNP "
        '(SEV API 55766, table "Status codes").\n',
        table(
            ("code", "status", "meaning"),
            [(code(f"0x{status:02X}"), status_link(status), text(status.meaning)) for status in Status],
        ),
    ]
    for status in Status:
        lines = [f"`0x{status:02X}`: {text(status.meaning)}.\n"]
        if status is not Status.SUCCESS:
            givers = ", ".join(
                _rules_of(name, found, status) for name, found in built.items() if _numbers(found, status)
            )
            lines.append(f"**Commands and their rules that give it**: {givers}.\n" if givers else _nobody(status))
            if shown := _shown(status):
                lines.append(f"**In the notebooks**: {shown}.\n")
        parts += [target(anchor("status", status.name)) + f"## {status.name}\n", *lines]
    return "\n".join(parts)


def _numbers(found: tuple[Rule, ...], status: Status) -> list[int]:
    return [rule.order for rule in found if rule.status is status]


def _rules_of(name: str, found: tuple[Rule, ...], status: Status) -> str:
    """A command and the numbers of its rules, each a link."""
    address, orders = anchor("command", name), _numbers(found, status)
    numbers = [link(str(number), f"{address}-rule-{number}") for number in orders]
    if len(numbers) > 6:
        numbers[5:] = [f"{len(numbers) - 5} more"]
    return f"{link(name, f'{address}-checks')} ({', '.join(numbers)})"


def _shown(status: Status) -> str:
    """Where a status is answered in the notebooks, and by which commands; or by a check of somebody else."""
    shown = []
    for cell in notebooks.with_status(status):
        names = cell.refused(status)
        several = f"{', '.join(names[:3])} and {len(names) - 3} more" if len(names) > 4 else ", ".join(names)
        shown.append(f"{cell.link()} ({several or 'a check outside the firmware'})")
    return "; ".join(shown)


def _nobody(status: Status) -> str:
    if status is Status.INVALID_COMMAND:
        return "The dispatcher gives it for an id that is in no row of the command table.\n"
    return "No rule of the SEV and SEV-ES commands that sevref builds gives it.\n"


# ---------------------------------------------------------------------------------------------- layouts


def _layouts() -> str:
    for name in api.modules():
        importlib.import_module(name)
    users: dict[str, list[str]] = {}
    for row in COMMANDS.values():
        if row.buffer is not None:
            users.setdefault(row.buffer.__name__, []).append(row.name)
    handlers: dict[str, list[str]] = {}
    for row in COMMANDS.values():
        for name in handled().get(row.name, ()):
            handlers.setdefault(name, []).append(row.name)
    found = layouts()
    parts = [
        "# Layouts\n",
        "Every binary structure: buffers of commands, certificates, what travels, and the inputs of MACs and "
        "signatures. Offsets and sizes are in bytes; integers are little-endian. From the same declaration come "
        "parsing, packing and the byte maps of the notebooks.\n",
        table(
            ("layout", "bytes", "what it is"),
            [(layout_link(cls), str(cls.SIZE) if cls.FIXED else "varies", _first_line(cls)) for cls in found.values()],
        ),
    ]
    for name, cls in found.items():
        size = f"{cls.SIZE} bytes (`0x{cls.SIZE:X}`)" if cls.FIXED else "The size depends on its fields"
        rows = [
            (
                code(field["name"]),
                "varies" if field["offset"] is None else code(f"0x{field['offset']:03X}"),
                "varies" if field["size"] is None else str(field["size"]),
                field["kind"],
                text(field["meaning"]),
            )
            for field in cls.table()
        ]
        uses = ", ".join(command_link(user) for user in users.get(name, ()))
        handles = ", ".join(command_link(user) for user in handlers.get(name, ()))
        seen = notebooks.links(notebooks.showing(name))
        parts += [
            target(anchor("layout", name)) + f"## {name}\n",
            _first_line(cls) + "\n",
            f"{size}; {api.module_link(cls.__module__)}."
            + (f" Buffer of {uses}." if uses else "")
            + (f" Read or written by {handles}." if handles else "")
            + (f" Shown as a byte map in {seen}." if seen else ""),
            "",
            table(("field", "offset", "size", "kind", "meaning"), rows),
        ]
    return "\n".join(parts)


def _first_line(cls: type[Layout]) -> str:
    """What a structure is: the first paragraph of its docstring."""
    return text((inspect.getdoc(cls) or "").split("\n\n")[0])


# ---------------------------------------------------------------------------------------------- states

_PLATFORM = {
    PlatformState.UNINIT: "No identity in memory, no guests. INIT reads or makes the identity.",
    PlatformState.INIT: "The identity is loaded; there are no guests. Ownership may change.",
    PlatformState.WORKING: "There is at least one guest; DECOMMISSION of the last one leads back to INIT.",
}
_GUEST = {
    GuestState.UNINIT: "No such guest.",
    GuestState.LUPDATE: "Being loaded and measured.",
    GuestState.LSECRET: "Measured; the owner's secret may be put in.",
    GuestState.RUNNING: "May run.",
    GuestState.SUPDATE: "Being sent.",
    GuestState.RUPDATE: "Being received.",
    GuestState.SENT: "Sent. Before DEACTIVATE it can still be executed; it cannot be bound again.",
}


def _states(built: dict[str, tuple[Rule, ...]]) -> str:
    platform: list[tuple[PlatformState, str, PlatformState]] = []
    guest: list[tuple[GuestState, str, GuestState]] = []
    for row in COMMANDS.values():
        if row.next_platform is not None:
            platform += [(state, row.name, row.next_platform) for state in sorted(row.platform - {row.next_platform})]
        if row.next_guest is not None:
            guest += [(state, row.name, row.next_guest) for state in sorted(row.guest or {GuestState.UNINIT})]
    platform.append((PlatformState.WORKING, "DECOMMISSION of the last guest", PlatformState.INIT))
    parts = [
        "# States\n",
        "Drawn from the command table: the commands that lead from one state to another.\n",
        "## Platform\n",
    ]
    parts += [raw_html(show.state_diagram(platform, title="Platform", states=list(PlatformState))._repr_html_())]
    for platform_state, meaning in _PLATFORM.items():
        allowed = [name for name in built if platform_state in BY_NAME[name].platform]
        parts += _state("platform", platform_state, meaning, allowed)
    parts += ["## Guest\n"]
    parts += [raw_html(show.state_diagram(guest, title="Guest", states=list(GuestState))._repr_html_())]
    for guest_state, meaning in _GUEST.items():
        allowed = [name for name in built if guest_state in (BY_NAME[name].guest or ())]
        parts += _state("guest", guest_state, meaning, allowed)
    return "\n".join(parts)


def _state(kind: str, state: PlatformState | GuestState, meaning: str, allowed: list[str]) -> list[str]:
    links = ", ".join(command_link(name) for name in allowed)
    return [
        target(anchor(kind, state.name)) + f"### {kind.capitalize()} state {state.name} ({int(state)})\n",
        meaning + (f" Accepts {links}." if links else "") + "\n",
    ]
