"""Replay of recorded firmware commands: does sevref answer as AMD's firmware did?

A trace is a list of steps: commands with their buffer, the memory written before and the random bytes drawn, and what
came out of it. A replay takes from a step only what went in; it issues the command through the mailbox and then
compares status, command buffer, memory, guest memory, the size and order of every random draw, and the states
afterwards. The format is described in ``data/traces/README.md``.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sevref.crypto import ReplayRandom, SeededRandom
from sevref.driver import Platform
from sevref.firmware import BY_NAME, COMMANDS, GENOA_1_55_25, NotBuiltError
from sevref.firmware import buffers as b
from sevref.firmware.store import MEDIUM_SIZE, StoredRecord
from sevref.layout import Layout
from sevref.machine import Machine
from sevref.policy import Policy
from sevref.status import InputError, Status

DEFAULT_BUFFER = 0x1000
#: where the replay asks for states, in DRAM that it restores afterwards: the first place outside the TMR
QUERY_PLACES = (0x8000, 0x40000)
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
    """One thing that a step should have produced and did not."""

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
        self.steps += other.steps
        self.agree += other.agree
        self.replaced += other.replaced
        self.unsupported += other.unsupported
        self.differ += other.differ

    @property
    def conforms(self) -> bool:
        return self.agree == self.steps

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def load_trace(path: str | Path) -> dict[str, Any]:
    """A trace from a JSON file, plain or compressed (.gz). ``InputError`` names what is wrong with the file."""
    path = Path(path)
    data = path.read_bytes()
    try:
        trace = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (ValueError, gzip.BadGzipFile, EOFError) as error:
        raise InputError(str(path), "a trace in JSON", str(error)) from None
    for name, kind in (("trace", str), ("instances", dict), ("steps", list)):
        if not isinstance(trace, dict) or not isinstance(trace.get(name), kind):
            raise InputError(f"{path}: {name}", f"a {kind.__name__}", "none")
    if not all(isinstance(step, dict) for step in trace["steps"]):
        raise InputError(f"{path}: steps", "objects", "something else")
    result: dict[str, Any] = trace
    return result


def replay(trace: Mapping[str, Any]) -> Report:
    """Replay one trace. A command that sevref does not build ends it: that and what follows are ``unsupported``."""
    return _Replay(trace).run()


def _number(value: Any) -> int:
    return int(value, 0) if isinstance(value, str) else int(value)


class _Instance:
    """One recorded platform: the machine of the traces, with its random source fed from the steps."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        known = {"seed", "cuk", "rkh", "ver", "umc", "sme", "aex", "blsecret"}
        if set(config) - known:
            raise InputError(f"instance {name}", f"only {sorted(known)}", sorted(set(config) - known))
        self.rng = ReplayRandom()
        self.draws = _Draws(self.rng)
        secret = bytes.fromhex(config.get("cuk", bytes(range(1, 33)).hex()))
        self.machine = Machine.recorded(
            name,
            rng=self.draws,
            chip_key=secret,
            root_hash=bytes.fromhex(config["rkh"]) if "rkh" in config else None,
            memory_encryption=bool(config.get("umc", 1)) and bool(config.get("sme", 1)),
            activate_ex=bool(config.get("aex", 1)),
            store_secret=bytes.fromhex(config["blsecret"]) if "blsecret" in config else None,
        )
        version = tuple(config["ver"][:3]) if "ver" in config else None
        self.platform = Platform(self.machine, GENOA_1_55_25, version=version)
        self.nv: int | None = None  # NV buffer named by the last INIT_EX

    def put(self, address: int, data: bytes, asid: int = 0) -> None:
        """Write as the recording did; what lies outside DRAM was written nowhere."""
        plain = address & ~self.machine.map.c_mask
        try:
            self.machine.dram.view(plain, len(data))
        except InputError:
            return
        if asid:
            self.machine.umc.write(asid, plain, data)
        else:
            self.machine.host_write(address, data)

    def states(self, handle: int | None) -> dict[str, Any]:
        """Platform and guest state as the mailbox tells them; memory is as before afterwards."""
        dram = self.machine.dram
        for place in QUERY_PLACES:
            saved = dram.read(place, 64)
            status = self._ask(BY_NAME["PLATFORM_STATUS"].id, place)
            if status is not Status.SUCCESS:
                continue
            answer = b.PlatformStatusBuffer.parse(dram.read(place, b.PlatformStatusBuffer.SIZE))
            found: dict[str, Any] = {
                "platform_state": answer.state,
                "guest_count": answer.guest_count,
                "ext_owned": answer.owner & 1,
            }
            if handle is not None:
                dram.write(place, b.GuestStatusBuffer(handle=handle).pack())
                self._ask(BY_NAME["GUEST_STATUS"].id, place)
                guest = b.GuestStatusBuffer.parse(dram.read(place, b.GuestStatusBuffer.SIZE))
                found["guest"] = {"handle": handle, **self._guest(guest)}
            dram.write(place, saved)
            return found
        raise InputError("replay", "a place in DRAM for a query", "none")

    def _ask(self, command: int, place: int) -> Status:
        return self.platform.mailbox(command, place)

    def _guest(self, guest: b.GuestStatusBuffer) -> dict[str, int]:
        if guest.state == 0:
            return {"state": 0, "asid": 0, "flags": 0}
        es = Policy(guest.policy).es
        bound = (1 if guest.asid in self.machine.valid_asids else 4) if guest.asid else 0
        return {"state": guest.state, "asid": guest.asid, "flags": bound | (2 | 8 if es else 0)}


class _Draws:
    """A random source that notes what is drawn, and goes on when the recording has no more."""

    def __init__(self, recorded: ReplayRandom) -> None:
        self._recorded = recorded
        self._spare = SeededRandom(b"", "not recorded")
        self.free = False  # True: hand out bytes that no recording names
        self.problems: list[str] = []

    def draw(self, size: int, what: str = "") -> bytes:
        if self.free:
            return self._spare.draw(size)
        try:
            return self._recorded.draw(size, what)
        except InputError as error:
            self.problems.append(str(error))
            return self._spare.draw(size)


class _Replay:
    def __init__(self, trace: Mapping[str, Any]) -> None:
        self.name = trace["trace"]
        self.steps = trace["steps"]
        self.instances = {name: self._instance(name, config) for name, config in trace["instances"].items()}
        self.report = Report()

    def _instance(self, name: str, config: Any) -> _Instance:
        try:
            return _Instance(name, config)
        except (KeyError, TypeError, ValueError) as error:
            found = str(error) if isinstance(error, InputError) else repr(config)
            raise InputError(f"{self.name}: instance {name}", "cuk, rkh, ver, ... as the format says", found) from None

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

    def _wbinvd(self, instance: _Instance, step: Mapping[str, Any]) -> None:
        mask, machine = _number(step["ccx_mask"]), instance.machine
        machine.wbinvd([core for core in range(len(machine.wbinvd_done)) if mask >> machine.ccx_of(core) & 1])

    def _write(self, instance: _Instance, step: Mapping[str, Any]) -> None:
        instance.put(_number(step["addr"]), bytes.fromhex(step["hex"]), _number(step.get("asid", 0)))

    def _fill(self, instance: _Instance, step: Mapping[str, Any]) -> None:
        pattern, length = bytes.fromhex(step["pattern"]), _number(step["length"])
        data = (pattern * (length // len(pattern) + 1))[:length]
        instance.put(_number(step["addr"]), data, _number(step.get("asid", 0)))

    def _boot(self, instance: _Instance, step: Mapping[str, Any]) -> None:
        instance.machine.power_cycle()

    def _rngpush(self, instance: _Instance, step: Mapping[str, Any]) -> None:
        """Nothing: the next command's ``rng`` holds what was drawn of these bytes."""

    def _repeat(self, instance: _Instance, step: Mapping[str, Any]) -> None:
        instance.draws.free = True
        for _ in range(_number(step["count"])):
            self._issue(instance, step)
        instance.draws.free = False

    def _issue(self, instance: _Instance, step: Mapping[str, Any]) -> Status:
        address = _number(step.get("cmdbuf_addr", DEFAULT_BUFFER))
        for place, data in step.get("mem_in", {}).items():
            instance.put(_number(place), bytes.fromhex(data))
        if step.get("cmdbuf_in"):
            instance.put(address, bytes.fromhex(step["cmdbuf_in"]) + bytes(16))
        return instance.platform.mailbox(step["id"], address)

    # -- a command and what came of it

    def _cmd(self, instance: _Instance, step: Mapping[str, Any]) -> None:
        instance.rng.refill(bytes.fromhex(chunk) for chunk in step.get("rng", ()))
        instance.draws.problems.clear()
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

    def _compare(self, instance: _Instance, step: Mapping[str, Any], status: Status) -> Iterator[tuple[str, Any, Any]]:
        internal = step["status"].startswith(INTERNAL)
        accepted = REPLACED.get(step["cmd"], ()) if internal else (step["status_code"],)
        if status not in accepted:
            yield "status", " or ".join(map(_status_name, accepted)), status.name
        for problem in instance.draws.problems:
            yield "rng", "a recorded draw", problem
        if instance.rng.left and not internal:
            yield "rng", "every recorded chunk drawn", f"{instance.rng.left} left"
        yield from self._compare_buffer(instance, step)
        for place, data in step.get("mem_out", {}).items():
            yield from self._compare_memory(instance, _number(place), bytes.fromhex(data))
        for entry in step.get("guest_mem_out", ()):
            address, plain = _number(entry["addr"]), bytes.fromhex(entry["plain"])
            address &= ~instance.machine.map.c_mask
            actual = instance.machine.umc.read(_number(entry["asid"]), address, len(plain))
            yield from _first_difference(f"guest memory 0x{address:X} (ASID {entry['asid']})", plain, actual)
        if "after" in step:
            after = step["after"]
            handle = after["guest"]["handle"] if "guest" in after else None
            states = instance.states(handle)
            for name, value in after.items():
                if states.get(name) != value:
                    yield f"after.{name}", value, states.get(name)

    def _compare_buffer(self, instance: _Instance, step: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
        if not step.get("cmdbuf_out"):
            return
        expected = bytes.fromhex(step["cmdbuf_out"])
        address = _number(step.get("cmdbuf_addr", DEFAULT_BUFFER))
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

    def _compare_memory(self, instance: _Instance, address: int, expected: bytes) -> Iterator[tuple[str, Any, Any]]:
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


OPERATIONS: Mapping[str, Callable[[_Replay, _Instance, Mapping[str, Any]], None]] = {
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
