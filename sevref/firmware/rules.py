"""The rules of each command, read from the command's own source, so that they cannot drift from what it does.

A body is checks in order: ``require(condition, Status.X, "rule")``, ``raise SevError(Status.X, "rule")``, and calls of
functions that hold more of them. ``rules`` walks the source in that order. A comment ``row N`` beside a check is its
row in the fact sheet's table for the command; sections of the sheets stand in ``SHEETS`` and ``DETAILS``.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from sevref.firmware import migrate
from sevref.firmware.asids import AsidTable
from sevref.firmware.commands import BODIES, BY_NAME, Access, NotBuiltError
from sevref.firmware.identity import Issuer
from sevref.firmware.processor import SecureProcessor
from sevref.firmware.profile import SPEC_0_24
from sevref.firmware.store import Store
from sevref.status import InputError, Status
from sevref.transport import Session

#: command -> section of the fact sheet that has its table of checks
SHEETS = {
    "INIT": "10 §3.1",
    "SHUTDOWN": "10 §3.2",
    "PLATFORM_RESET": "10 §3.3",
    "PLATFORM_STATUS": "10 §3.4",
    "PEK_GEN": "10 §3.5",
    "PEK_CSR": "10 §3.6",
    "PEK_CERT_IMPORT": "10 §3.7",
    "PDH_CERT_EXPORT": "10 §3.8",
    "PDH_GEN": "10 §3.9",
    "DF_FLUSH": "10 §3.10",
    "DOWNLOAD_FIRMWARE": "10 §3.11",
    "GET_ID": "10 §3.12",
    "INIT_EX": "10 §3.1",
    "NOP": "10 §3.13",
    "RING_BUFFER": "10 §3.14",
    "DECOMMISSION": "20 §3.9",
    "ACTIVATE": "20 §5.4",
    "DEACTIVATE": "20 §5.6",
    "GUEST_STATUS": "20 §3.8",
    "COPY": "20 §6.2",
    "ACTIVATE_EX": "20 §5.5",
    "LAUNCH_START": "20 §3.1",
    "LAUNCH_UPDATE_DATA": "20 §3.3",
    "LAUNCH_UPDATE_VMSA": "20 §3.3",
    "LAUNCH_MEASURE": "20 §3.5",
    "LAUNCH_SECRET": "20 §3.6",
    "LAUNCH_FINISH": "20 §3.7",
    "ATTESTATION": "20 §4",
    "SEND_START": "30 §5.2",
    "SEND_UPDATE_DATA": "30 §5.4",
    "SEND_UPDATE_VMSA": "30 §5.4",
    "SEND_FINISH": "30 §5.5",
    "SEND_CANCEL": "30 §5.5",
    "RECEIVE_START": "30 §5.7",
    "RECEIVE_UPDATE_DATA": "30 §5.8",
    "RECEIVE_UPDATE_VMSA": "30 §5.8",
    "RECEIVE_FINISH": "30 §5.9",
    "DBG_DECRYPT": "20 §6.1",
    "DBG_ENCRYPT": "20 §6.1",
    "SWAP_OUT": "20 §6.3",
    "SWAP_IN": "20 §6.3",
}
#: function -> section that has its rules in detail
DETAILS = {
    "check": "10 §1.6",
    "open": "30 §2",
    "validate": "50 §2.9",
    "validate_amd": "50 §1.4",
    "read_amd_chain": "50 §1.5",
    "check_peer": "50 §2.10",
    "load": "10 §4",
    "fresh": "10 §3.0",
    "with_new_pdh": "10 §3.0",
}
#: functions whose rows are those of a table of their own
SECTIONS = {"Receiver.require_sev_platform": "30 §5.2.1", "Receiver.require_same_domain": "30 §5.2.2"}
_CLASSES = (SecureProcessor, AsidTable, Store, Issuer, migrate.Receiver, Session)
#: methods whose one rule is the address check of the field that they are given
_ADDRESS = frozenset({"check", "read", "write"})
#: checks of the firmware's inner state that no caller can break
_INTERNAL = frozenset({"require_identity", "require_cek", "_sign"})


@dataclass(frozen=True)
class Rule:
    """One check of a command: ``order`` from 1, the status if it fails, the rule in words, its place in the sheets."""

    order: int
    status: Status
    rule: str
    sheet: str


@cache
def rules(name: str) -> tuple[Rule, ...]:
    """Every check of a command in order. ``InputError`` for an unknown name, ``NotBuiltError`` for one not built."""
    row = BY_NAME.get(name.upper())
    if row is None:
        raise InputError("command", "one of " + ", ".join(BY_NAME), name)
    if row.id not in BODIES:
        raise NotBuiltError("command", "one that this version of sevref builds", row.name)
    reader = _Reader(row.name)
    if row.access not in (Access.NONE, Access.OUT):
        reader.add(Status.INVALID_ADDRESS, "the command buffer passes the address check", "10 §1.4; 10 §1.6")
    reader.function(BODIES[row.id])
    if row.access is Access.OUT:
        reader.add(Status.INVALID_ADDRESS, "the command buffer passes the address check", "10 §1.4; 10 §1.6")
    return tuple(Rule(order, *found) for order, found in enumerate(reader.found, 1))


class _Reader:
    """Collects (status, rule, sheet) in the order in which a body would meet them."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.found: list[tuple[Status, str, str]] = []
        self._stack: list[str] = []

    def add(self, status: Status, rule: str, sheet: str) -> None:
        if (status, rule, sheet) not in self.found:
            self.found.append((status, rule, sheet))

    def function(
        self,
        function: Callable[..., Any],
        place: str = "",
        section: str = "",
        given: dict[str, _Walk] | None = None,
        flags: dict[str, bool] | None = None,
    ) -> None:
        """Walk a function; ``place`` is the row and details of the call, ``section`` that of the caller's rows,
        ``given`` what its callable arguments are, ``flags`` its arguments that are True or False."""
        name, row = function.__qualname__, BY_NAME[self.command]
        if name in self._stack:
            return
        if function is SecureProcessor.require_platform_state:
            states = " or ".join(state.name for state in sorted(row.platform))
            self.add(Status.INVALID_PLATFORM_STATE, f"the platform's state is {states}", place)
            return
        if function is SecureProcessor.require_guest_state:
            states = " or ".join(state.name for state in sorted(row.guest or ()))
            self.add(Status.INVALID_GUEST_STATE, f"the guest's state is {states}", place)
            return
        self._stack.append(name)
        lines = textwrap.dedent(inspect.getsource(function)).splitlines()
        tree = ast.parse("\n".join(lines)).body[0]
        assert isinstance(tree, ast.FunctionDef)
        section = SECTIONS.get(name, section or SHEETS[self.command])
        walk = _Walk(self, lines, function.__globals__, place, section, given or {})
        defaults = {name: p.default for name, p in inspect.signature(function).parameters.items()}
        walk.flags = {name: value for name, value in defaults.items() if isinstance(value, bool)} | (flags or {})
        walk.body(tree.body)
        self._stack.pop()


class _Walk:
    """One function's source."""

    def __init__(
        self,
        reader: _Reader,
        lines: list[str],
        names: dict[str, Any],
        place: str,
        section: str,
        given: dict[str, _Walk],
    ) -> None:
        self.reader, self.lines, self.names, self.place, self.section = reader, lines, names, place, section
        self.given = given  # name -> walk of a function or lambda of the caller
        self.flags: dict[str, bool] = {}  # parameters whose value is known: what they rule out is no rule here
        self.words: dict[str, ast.expr] = {}  # name -> expression last assigned
        self.nested: dict[str, list[ast.stmt]] = {}
        self.statement: ast.stmt | None = None
        self.inner: list[ast.stmt] | ast.expr | None = None  # what this walk is of, when it stands for an argument

    # -- statements

    def body(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self.statement = statement
            if isinstance(statement, ast.FunctionDef):
                self.nested[statement.name] = statement.body
            elif isinstance(statement, ast.If | ast.For | ast.While | ast.Try | ast.With):
                self._compound(statement)
            else:
                if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                    self.words[statement.targets[0].id] = statement.value
                self._expressions(statement)

    def _compound(self, statement: ast.stmt) -> None:
        test = getattr(statement, "test", None)
        if isinstance(test, ast.Name) and self.flags.get(test.id) is False:
            return
        for name in ("test", "iter", "items"):
            part = getattr(statement, name, None)
            for node in part if isinstance(part, list) else [part]:
                if node is not None:
                    self._expressions(node)
        for name in ("body", "orelse", "finalbody"):
            self.body(getattr(statement, name, []))
        for handler in getattr(statement, "handlers", []):
            self.body(handler.body)

    # -- expressions, arguments before the call that takes them

    def _expressions(self, node: ast.AST) -> None:
        if isinstance(node, ast.Lambda):
            return
        for child in ast.iter_child_nodes(node):
            self._expressions(child)
        if isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found = getattr(migrate.Receiver, node.attr, None)
            if isinstance(found, property) and found.fget is not None and self._is_receiver(node.value):
                self.reader.function(found.fget, self._place(node.attr), self.section)

    def _is_receiver(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id in ("chain", "self") and self.names is migrate.__dict__

    def _call(self, call: ast.Call) -> None:
        name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
        if name == "require":
            if not self._always(call.args[0]):
                self._rule(call.args[1], call.args[2])
        elif name == "SevError" and len(call.args) >= 2:
            self._rule(call.args[0], call.args[1])
        elif name == "require_mac":
            self.reader.add(Status.BAD_MEASUREMENT, self._words(call.args[2]), self._place(""))
        elif name in _ADDRESS and isinstance(call.func, ast.Attribute) and self._is_processor(call.func.value):
            what = self._words(call.args[2])
            self.reader.add(Status.INVALID_ADDRESS, f"{what} passes the address check", self._place("check"))
        elif name in self.given:
            walk = self.given[name]
            if isinstance(walk.inner, list):
                walk.body(walk.inner)
            elif walk.inner is not None:
                walk._expressions(walk.inner)
        elif name not in _INTERNAL and (function := self._resolve(call.func)) is not None:
            place, given = self._place(name), self._arguments(function, call)
            self.reader.function(function, place, self.section, given, self._flags(call))

    def _always(self, condition: ast.expr) -> bool:
        """Whether a condition ``... or not flag`` holds because the flag is False."""
        parts = condition.values if isinstance(condition, ast.BoolOp) and isinstance(condition.op, ast.Or) else []
        return any(
            isinstance(part, ast.UnaryOp)
            and isinstance(part.operand, ast.Name)
            and self.flags.get(part.operand.id) is False
            for part in parts
        )

    def _flags(self, call: ast.Call) -> dict[str, bool]:
        """Keyword arguments that are True or False, or a flag of the caller's."""
        found = {}
        for keyword in call.keywords:
            value = keyword.value
            if isinstance(value, ast.Constant) and isinstance(value.value, bool):
                found[str(keyword.arg)] = value.value
            elif isinstance(value, ast.Name) and value.id in self.flags:
                found[str(keyword.arg)] = self.flags[value.id]
        return found

    @staticmethod
    def _is_processor(node: ast.expr) -> bool:
        return (isinstance(node, ast.Name) and node.id == "sp") or (
            isinstance(node, ast.Attribute) and node.attr == "_sp"
        )

    def _resolve(self, node: ast.expr) -> Callable[..., Any] | None:
        """The function of ours that an expression names."""
        found = None
        if isinstance(node, ast.Name):
            found = self.names.get(node.id)
        elif isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if owner in ("sp", "sp.asids", "sp.store", "sp.issuer", "chain", "session", "self"):
                found = next((vars(cls)[node.attr] for cls in _CLASSES if node.attr in vars(cls)), None)
        ours = inspect.isfunction(found) and found.__module__.startswith("sevref.")
        return found if ours else None

    def _arguments(self, function: Callable[..., Any], call: ast.Call) -> dict[str, _Walk]:
        """Walks of the lambdas and nested functions among the arguments, by the callee's parameter name."""
        given = {}
        for parameter, node in zip(inspect.signature(function).parameters, call.args, strict=False):
            inner: list[ast.stmt] | ast.expr | None = None
            if isinstance(node, ast.Lambda):
                inner = node.body
            elif isinstance(node, ast.Name) and node.id in self.nested:
                inner = self.nested[node.id]
            if inner is not None:
                walk = _Walk(self.reader, self.lines, self.names, self.place, self.section, self.given)
                walk.inner, walk.statement, walk.words = inner, self.statement, self.words
                given[parameter] = walk
        return given

    # -- words

    def _rule(self, status: ast.expr, words: ast.expr) -> None:
        if isinstance(status, ast.Attribute) and isinstance(status.value, ast.Name) and status.value.id == "Status":
            self.reader.add(Status[status.attr], self._words(words), self._place(""))

    def _place(self, name: str) -> str:
        """Section and row of the check at hand, and the section that has the details of function ``name``."""
        row = self._row()
        place = f"{self.section} row {row}" if row else self.place or self.section
        detail = DETAILS.get(name)
        return place if detail is None or detail in place else f"{place}; {detail}"

    def _row(self) -> str:
        """The row in the comment beside the statement; where two commands share it, this command's."""
        assert self.statement is not None
        first, last = self.statement.lineno, self.statement.end_lineno or self.statement.lineno
        if isinstance(self.statement, ast.If | ast.For | ast.While | ast.Try | ast.With):
            last = first
        for line in self.lines[first - 1 : last]:
            comment = line.partition("  # ")[2]
            if found := re.search(rf"\b{self.reader.command} row (\w+)", comment) or re.match(r"row (\w+)", comment):
                return found[1]
        return ""

    def _words(self, node: ast.expr) -> str:
        """A rule's text: constants filled in, other values by name, what was found left out."""
        if isinstance(node, ast.Name) and node.id in self.words:
            node = self.words[node.id]
        if isinstance(node, ast.JoinedStr):
            text = "".join(self._value(part) for part in node.values)
        elif isinstance(node, ast.Constant):
            text = str(node.value)
        else:
            text = self._value(node)
        return re.sub(r",? (which )?found .*$", "", text)

    def _value(self, node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.FormattedValue):
            node = node.value
        source = ast.unparse(node)
        if source == "error.rule":
            return "the range passes the address check, whatever status that has"
        if isinstance(node, ast.Name) and isinstance(self.names.get(node.id), int | tuple):
            return str(self.names[node.id])
        if isinstance(node, ast.Name) and node.id == "limit":
            return str(SPEC_0_24.packet_max_len)
        return f"<{re.sub(r'^.*[.]', '', source)}>" if re.fullmatch(r"[\w.]+", source) else "<...>"
