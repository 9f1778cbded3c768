"""Replay of recorded firmware commands: whether sevref answers as AMD's firmware did.

A trace is a list of steps: commands with their buffer, the memory written before and the random bytes drawn, and what
came out of it. A replay takes from a step only what went in; it issues the command through the mailbox and then
compares status, command buffer, memory, guest memory, the size and order of every random draw, and the states
afterwards. The format is described in ``data/traces/README.md``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sevref.crypto import ReplayRandom, SeededRandom
from sevref.firmware import COMMANDS, NotBuiltError
from sevref.firmware import buffers as b
from sevref.firmware.store import MEDIUM_SIZE, StoredRecord
from sevref.layout import Layout
from sevref.status import InputError, Status
from sevref.traces import Instance, load_trace, number

DEFAULT_BUFFER = 0x1000
INTERNAL = "INTERNAL:"

#: What sevref answers where the recorded firmware let an internal error out, by command.
REPLACED: Mapping[str, tuple[Status, ...]] = {
    "INIT": (Status.HWERROR_PLATFORM,),  # an impossible key or nonce candidate
    "INIT_EX": (Status.INVALID_LENGTH, Status.HWERROR_PLATFORM),  # a range of 0 bytes; as INIT
    "PEK_GEN": (Status.HWERROR_PLATFORM,),
    "PDH_GEN": (Status.HWERROR_PLATFORM,),
    "PEK_CERT_IMPORT": (Status.HWERROR_PLATFORM,),
    "ATTESTATION": (Status.HWERROR_PLATFORM,),
    "ACTIVATE_EX": (Status.INVALID_PARAM,),  # an APIC id of 512 or more
    "DBG_DECRYPT": (Status.INVALID_LENGTH,),  # LENGTH = 0
    "DBG_ENCRYPT": (Status.INVALID_LENGTH,),
    "SEND_START": (Status.INVALID_CERTIFICATE,),  # an AMD certificate beyond 1600 bytes
}


@dataclass(frozen=True)
class Difference:
    """One thing that a step should have produced and did not.

    ``step`` is the step's number in its trace, ``expected`` is the recording's value, ``found`` sevref's."""

    trace: str
    step: int
    command: str
    field: str
    expected: Any
    found: Any


@dataclass
class Report:
    """Counts over commands: ``agree`` + commands with a difference + ``unsupported`` = ``steps``."""

    steps: int = 0
    agree: int = 0
    replaced: int = 0  #: of those that agree: internal errors answered as the sheets say
    unsupported: int = 0
    differ: list[Difference] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Add the counts and differences of ``other`` to these."""
        self.steps += other.steps
        self.agree += other.agree
        self.replaced += other.replaced
        self.unsupported += other.unsupported
        self.differ += other.differ

    @property
    def conforms(self) -> bool:
        """Whether every command agrees."""
        return self.agree == self.steps

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return asdict(self)


def replay(trace: Mapping[str, Any]) -> Report:
    """Replay one trace. A command that sevref does not build ends it: that and what follows are ``unsupported``."""
    return _Replay(trace).run()


class _Draws:
    """A random source that notes what is drawn, and goes on when the recording has no more."""

    def __init__(self) -> None:
        self.recorded = ReplayRandom()
        self._spare = SeededRandom(b"", "not recorded")
        self.free = False  # True: hand out bytes that no recording names
        self.problems: list[str] = []

    def draw(self, size: int, what: str = "") -> bytes:
        if self.free:
            return self._spare.draw(size)
        try:
            return self.recorded.draw(size, what)
        except InputError as error:
            self.problems.append(str(error))
            return self._spare.draw(size)


class _Replay:
    def __init__(self, trace: Mapping[str, Any]) -> None:
        self.name = trace["trace"]
        self.steps = trace["steps"]
        self.instances = {name: self._instance(name, config) for name, config in trace["instances"].items()}
        self.report = Report()

    def _instance(self, name: str, config: Any) -> Instance[_Draws]:
        try:
            return Instance(name, config, _Draws())
        except InputError as error:
            raise InputError(f"{self.name}: {error.field}", error.expected, error.found) from None

    def run(self) -> Report:
        commands = sum(step.get("op") == "cmd" for step in self.steps)
        for step in self.steps:
            where = f"{self.name}: step {step.get('i')}"
            instance, operation = self.instances.get(step.get("fw", "")), OPERATIONS.get(step.get("op", ""))
            if instance is None:
                raise InputError(f"{where}: fw", f"one of {', '.join(self.instances)}", repr(step.get("fw")))
            if operation is None:
                raise InputError(f"{where}: op", f"one of {', '.join(OPERATIONS)}", repr(step.get("op")))
            try:
                operation(self, instance, step)
            except NotBuiltError:
                self.report.unsupported = commands - self.report.steps
                self.report.steps = commands
                break
            except InputError as error:
                raise InputError(f"{where}: {error.field}", error.expected, error.found) from None
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise InputError(where, "a step as data/traces/README.md describes it", repr(error)) from None
        return self.report

    # -- what happens between commands

    def _wbinvd(self, instance: Instance[_Draws], step: Mapping[str, Any]) -> None:
        mask, machine = number(step["ccx_mask"]), instance.machine
        machine.wbinvd([core for core in range(len(machine.wbinvd_done)) if mask >> machine.ccx_of(core) & 1])

    def _write(self, instance: Instance[_Draws], step: Mapping[str, Any]) -> None:
        instance.put(number(step["addr"]), bytes.fromhex(step["hex"]), number(step.get("asid", 0)))

    def _fill(self, instance: Instance[_Draws], step: Mapping[str, Any]) -> None:
        pattern, length = bytes.fromhex(step["pattern"]), number(step["length"])
        data = (pattern * (length // len(pattern) + 1))[:length]
        instance.put(number(step["addr"]), data, number(step.get("asid", 0)))

    def _boot(self, instance: Instance[_Draws], step: Mapping[str, Any]) -> None:
        instance.machine.power_cycle()

    def _rngpush(self, instance: Instance[_Draws], step: Mapping[str, Any]) -> None:
        """Nothing: the next command's ``rng`` holds what was drawn of these bytes."""

    def _repeat(self, instance: Instance[_Draws], step: Mapping[str, Any]) -> None:
        instance.rng.free = True
        for _ in range(number(step["count"])):
            self._issue(instance, step)
        instance.rng.free = False

    def _issue(self, instance: Instance[_Draws], step: Mapping[str, Any]) -> Status:
        address = number(step.get("cmdbuf_addr", DEFAULT_BUFFER))
        for place, data in step.get("mem_in", {}).items():
            instance.put(number(place), bytes.fromhex(data))
        if step.get("cmdbuf_in"):
            instance.put(address, bytes.fromhex(step["cmdbuf_in"]) + bytes(16))
        return instance.platform.mailbox(step["id"], address)

    # -- a command and what came of it

    def _cmd(self, instance: Instance[_Draws], step: Mapping[str, Any]) -> None:
        instance.rng.recorded.refill(bytes.fromhex(chunk) for chunk in step.get("rng", ()))
        instance.rng.problems.clear()
        status = self._issue(instance, step)
        row = COMMANDS.get(step["id"])
        if row is not None and row.name == "INIT_EX" and status is Status.SUCCESS:
            fields = b.InitExBuffer.parse(bytes.fromhex(step["cmdbuf_in"]))
            instance.nv = fields.nv_paddr or None
        found = list(self._compare(instance, step, status))
        self.report.steps += 1
        self.report.agree += not found
        self.report.replaced += not found and step["status"].startswith(INTERNAL)
        for name, expected, actual in found:
            self.report.differ.append(Difference(self.name, step["i"], step["cmd"], name, expected, actual))

    def _compare(
        self, instance: Instance[_Draws], step: Mapping[str, Any], status: Status
    ) -> Iterator[tuple[str, Any, Any]]:
        internal = step["status"].startswith(INTERNAL)
        accepted = REPLACED.get(step["cmd"], ()) if internal else (step["status_code"],)
        if status not in accepted:
            yield "status", " or ".join(map(_status_name, accepted)), status.name
        for problem in instance.rng.problems:
            yield "rng", "a recorded draw", problem
        if instance.rng.recorded.left and not internal:
            yield "rng", "every recorded chunk drawn", f"{instance.rng.recorded.left} left"
        yield from self._compare_buffer(instance, step)
        for place, data in step.get("mem_out", {}).items():
            yield from self._compare_memory(instance, number(place), bytes.fromhex(data))
        for entry in step.get("guest_mem_out", ()):
            address, plain = number(entry["addr"]), bytes.fromhex(entry["plain"])
            address &= ~instance.machine.map.c_mask
            actual = instance.machine.umc.read(number(entry["asid"]), address, len(plain))
            yield from _first_difference(f"guest memory 0x{address:X} (ASID {entry['asid']})", plain, actual)
        if "after" in step:
            after = step["after"]
            handle = after["guest"]["handle"] if "guest" in after else None
            states = instance.states(handle)
            for name, value in after.items():
                if states.get(name) != value:
                    yield f"after.{name}", value, states.get(name)

    def _compare_buffer(self, instance: Instance[_Draws], step: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
        if not step.get("cmdbuf_out"):
            return
        expected = bytes.fromhex(step["cmdbuf_out"])
        address = number(step.get("cmdbuf_addr", DEFAULT_BUFFER))
        try:
            actual = instance.machine.host_read(address, len(expected))
        except InputError:
            return  # the buffer is not in DRAM: there is nothing to read back
        row = COMMANDS.get(step["id"])
        if actual != expected and row is not None and row.buffer is not None and len(expected) >= row.size:
            yield from _fields(row.buffer, expected[: row.size], actual[: row.size])
            yield from _first_difference("command buffer, behind its end", expected[row.size :], actual[row.size :])
        else:
            yield from _first_difference("command buffer", expected, actual)

    def _compare_memory(
        self, instance: Instance[_Draws], address: int, expected: bytes
    ) -> Iterator[tuple[str, Any, Any]]:
        actual = instance.machine.host_read(address, len(expected))
        if instance.nv is not None and address == instance.nv:
            # The record's keys are each machine's own: whether one is there and what lies behind it can be compared.
            empty = b"\xff" * 4
            parts = (("empty", slice(0, 4)), ("behind the record", slice(StoredRecord.SIZE, MEDIUM_SIZE)))
            for name, part in parts:
                want, got = expected[part], actual[part]
                same = (want == empty) == (got == empty) if name == "empty" else want == got
                if not same:
                    yield f"NV buffer, {name}", want.hex()[:64], got.hex()[:64]
            return
        yield from _first_difference(f"memory 0x{address:X}", expected, actual)


OPERATIONS: Mapping[str, Callable[[_Replay, Instance[_Draws], Mapping[str, Any]], None]] = {
    "cmd": _Replay._cmd,
    "write": _Replay._write,
    "fill": _Replay._fill,
    "wbinvd": _Replay._wbinvd,
    "boot": _Replay._boot,
    "rngpush": _Replay._rngpush,
    "repeat": _Replay._repeat,
}


def _status_name(code: int) -> str:
    return Status(code).name if code in Status._value2member_map_ else f"0x{code:X}"


def _first_difference(name: str, expected: bytes, actual: bytes) -> Iterator[tuple[str, Any, Any]]:
    if expected != actual:
        at = next(i for i, (x, y) in enumerate(zip(expected, actual, strict=True)) if x != y)
        yield f"{name} at +0x{at:X}", expected[at : at + 16].hex(), actual[at : at + 16].hex()


def _fields(layout: type[Layout], expected: bytes, actual: bytes) -> Iterator[tuple[str, Any, Any]]:
    pairs = zip(layout.parse(expected).describe(), layout.parse(actual).describe(), strict=True)
    for want, got in pairs:
        if want.data != got.data:
            yield f"command buffer.{want.name}", want.text, got.text


def replay_files(paths: Iterable[str | Path]) -> Report:
    """Replay several trace files, one report."""
    total = Report()
    for path in paths:
        total.add(replay(load_trace(path)))
    return total
