"""The state machines drawn from the command table, a run through them, and the rules of a command as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sevref.firmware import BY_NAME, COMMANDS, GuestState, PlatformState
from sevref.firmware.rules import rules
from sevref.layout import Layout
from sevref.show import widgets
from sevref.show.bytemap import byte_map
from sevref.show.html import Showable, Stack, statement
from sevref.show.matrix import Reply, ask
from sevref.show.states import StateDiagram, state_diagram
from sevref.show.table import Table, code, table, verdict_cell
from sevref.show.trials import ASID, MEMORY, PAGE, POLICY, Trial
from sevref.show.widgets import Panel, panel
from sevref.status import InputError, Status

#: from top to bottom in the pictures
GUEST_ORDER = ("UNINIT", "LUPDATE", "LSECRET", "RUNNING", "SUPDATE", "SENT", "RUPDATE")


def platform_diagram(current: object = None) -> StateDiagram:
    """States of the platform and the commands that change them; which leave the state alone, the matrix says."""
    edges = [
        (state.name, row.name, row.next_platform.name)
        for row in COMMANDS.values()
        for state in sorted(row.platform)
        if row.next_platform is not None and row.next_platform is not state
    ]
    edges.append(("WORKING", "DECOMMISSION of the last guest", "INIT"))
    return state_diagram(edges, current, "The platform", [state.name for state in PlatformState])


def guest_diagram(current: object = None) -> StateDiagram:
    """States of a guest and the commands that change them. DECOMMISSION, from any state back to UNINIT, is left out
    of the arrows."""
    edges = [
        (state.name, row.name, row.next_guest.name)
        for row in COMMANDS.values()
        if row.next_guest is not None and row.next_guest is not GuestState.UNINIT
        for state in sorted(row.guest or {GuestState.UNINIT})
    ]
    return state_diagram(edges, current, "A guest", GUEST_ORDER)


def buffer_maps() -> Stack:
    """Every command buffer once, empty, under the names of the commands that take it."""
    users: dict[type[Layout], list[str]] = {}
    for row in COMMANDS.values():
        if row.buffer is not None:
            users.setdefault(row.buffer, []).append(row.name)
    maps = [byte_map(buffer, ", ".join(names), fields=False) for buffer, names in users.items()]
    without = ", ".join(row.name for row in COMMANDS.values() if row.buffer is None)
    return Stack(*maps, statement(None, "no buffer", [without]), title="Command buffers")


# ---------------------------------------------------------------------------- a run through both


@dataclass(frozen=True)
class Step:
    """One command of a run and what PLATFORM_STATUS and GUEST_STATUS said after it."""

    command: str
    reply: Reply
    platform: PlatformState
    guest: GuestState


def record_run() -> list[Step]:
    """A guest's whole life, with some commands that come too early or too late, asked of a real platform."""
    trial = Trial(PlatformState.UNINIT)
    p, me = trial.platform, trial.identity
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("LAUNCH_START", lambda: p.launch_start(POLICY)),
        ("INIT", lambda: p.init(es=True)),
        ("DF_FLUSH", p.df_flush),
        ("LAUNCH_START", lambda: p.launch_start(POLICY)),
        ("LAUNCH_UPDATE_DATA", lambda: p.launch_update_data(1, MEMORY, PAGE)),
        ("ACTIVATE", lambda: p.activate(1, ASID)),
        ("LAUNCH_UPDATE_DATA", lambda: p.launch_update_data(1, MEMORY, PAGE)),
        ("LAUNCH_FINISH", lambda: p.launch_finish(1)),
        ("LAUNCH_MEASURE", lambda: p.launch_measure(1)),
        ("LAUNCH_UPDATE_DATA", lambda: p.launch_update_data(1, MEMORY, PAGE)),
        ("LAUNCH_FINISH", lambda: p.launch_finish(1)),
        ("SEND_START", lambda: p.send_start(1, me.chain)),
        ("SEND_UPDATE_DATA", lambda: p.send_update_data(1, MEMORY, PAGE)),
        ("SEND_CANCEL", lambda: p.send_cancel(1)),
        ("SEND_START", lambda: p.send_start(1, me.chain)),
        ("SEND_FINISH", lambda: p.send_finish(1)),
        ("SEND_CANCEL", lambda: p.send_cancel(1)),
        ("DECOMMISSION", lambda: p.decommission(1)),
        ("DEACTIVATE", lambda: p.deactivate(1)),
        ("DECOMMISSION", lambda: p.decommission(1)),
        ("RECEIVE_START", lambda: p.receive_start(POLICY, me.opened.godh, me.opened.session)),
        ("RECEIVE_FINISH", lambda: p.receive_finish(1)),
        ("SHUTDOWN", p.shutdown),
    ]
    steps = []
    for command, call in calls:
        if command == "DF_FLUSH":
            p.machine.wbinvd()
        reply = ask(call)
        state = PlatformState(p.platform_status().state)
        guest = GuestState.UNINIT if state is PlatformState.UNINIT else p.guest_status(1).state
        steps.append(Step(command, reply, state, guest))
    return steps


def run_table(steps: Sequence[Step]) -> Table:
    """A run as a table: command, answer, and both states after it."""
    rows = [
        {
            "step": number,
            "command": code(step.command),
            "answer": verdict_cell(step.reply.status is Status.SUCCESS, step.reply.status.name),
            "platform": code(step.platform.name),
            "guest 1": code(step.guest.name),
            "why refused": step.reply.rule,
        }
        for number, step in enumerate(steps, 1)
    ]
    return table(rows, "A guest's life, step by step")


def run_panel() -> Panel:
    """Step through ``record_run``; both diagrams show where the platform and the guest are. Control: ``step``."""
    steps = record_run()

    def compute(values: dict[str, Any]) -> Showable:
        step = steps[values["step"] - 1]
        ok = step.reply.status is Status.SUCCESS
        words = f"{step.command}: {step.reply.status.name}"
        why = [step.reply.rule] if step.reply.rule else []
        said = statement(ok, words, why, f"step {values['step']} of {len(steps)}")
        return Stack(said, platform_diagram(step.platform), guest_diagram(step.guest))

    controls = {"step": widgets.slider("step", 12, 1, len(steps))}
    return panel(controls, compute, "A run through the states", "Refused commands leave both states where they are.")


# ---------------------------------------------------------------------------- why


def why_table(command: str, status: str = "") -> Table:
    """The rules of a command in the order in which they are checked, or those with one status alone."""
    chosen = [rule for rule in rules(command) if status in ("", rule.status.name)]
    rows = [
        {
            "": rule.order,
            "rule": rule.rule,
            "status": code(rule.status.name, f"0x{rule.status:02X}: {rule.status.meaning}"),
            "fact sheet": rule.sheet,
        }
        for rule in chosen
    ]
    name = command.upper()
    return table(rows, f"{name}: {len(rows)} of {len(rules(name))} rules", ["", "rule", "status", "fact sheet"])


def who_answers(status: str) -> list[str]:
    """The commands that have a rule with this status, in the order of the command table."""
    return [name for name in BY_NAME if any(rule.status.name == status for rule in rules(name))]


def why_panel() -> Panel:
    """Filter the rules of all commands. Controls: ``command`` and ``status`` (a name, or "" for all)."""
    found = sorted({rule.status for name in BY_NAME for rule in rules(name)})
    controls = {
        "command": widgets.choice(
            "command", [("all commands", ""), *((name, name) for name in BY_NAME)], "DBG_DECRYPT"
        ),
        "status": widgets.choice("status", [("any status", ""), *((s.name, s.name) for s in found)], ""),
    }

    def compute(values: dict[str, Any]) -> Showable:
        command, status = values["command"], values["status"]
        if command:
            shown = why_table(command, status)
            never = f"{command} never answers {status}"
            return shown if shown.rows else statement(None, never)
        if not status:
            raise InputError("choice", "a command, a status, or both", "neither")
        rows = [
            {"command": code(name), "": rule.order, "rule": rule.rule, "fact sheet": rule.sheet}
            for name in BY_NAME
            for rule in rules(name)
            if rule.status.name == status
        ]
        return table(rows, f"{status}: {_count(len(rows), 'rule')} of {_count(len(who_answers(status)), 'command')}")

    hint = "The rules come from the source of the commands, in the order in which they are checked."
    return panel(controls, compute, "Why", hint)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
