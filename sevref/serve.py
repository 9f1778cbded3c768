"""The oracle for programs in other languages: one JSON request a line in, one JSON answer a line out.

The protocol is described in ``data/protocol/README.md``. A session can be recorded in the trace format, so that a bug
report is a file that replays (``sevref conform``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sevref.crypto import OsRandom, RandomSource, random_source
from sevref.firmware import BY_NAME, COMMANDS
from sevref.firmware.rules import rules
from sevref.status import InputError
from sevref.traces import Instance, number

DEFAULT_BUFFER = 0x1000
PROTOCOL = 1
LIMIT = 1 << 26  # bytes of memory in one request


class Notebook:
    """A random source that remembers what it handed out: the ``rng`` of a recorded command."""

    def __init__(self, source: RandomSource) -> None:
        self._source = source
        self._next: list[bytes] = []
        self.chunks: list[bytes] = []

    def push(self, chunk: bytes) -> None:
        """Hand out this chunk before anything else."""
        self._next.append(chunk)

    def draw(self, size: int, what: str = "") -> bytes:
        """The next chunk, which is remembered; ``InputError`` if a pushed one has not ``size`` bytes."""
        chunk = self._next.pop(0) if self._next else self._source.draw(size, what)
        if len(chunk) != size:
            raise InputError(f"rng: chunk for {what}", f"{size} bytes", f"{len(chunk)} bytes")
        self.chunks.append(chunk)
        return chunk


class Server:
    """Answers requests; keeps the platforms, and the steps of the session in the trace format."""

    def __init__(self, name: str = "session") -> None:
        self.instances: dict[str, Instance[Notebook]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.steps: list[dict[str, Any]] = []
        self.name = name

    # -- requests

    def answer(self, line: str | bytes) -> dict[str, Any]:
        """The answer to one line. Nothing that a line says makes this raise."""
        request: Any = None
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise InputError("request", "a JSON object", type(request).__name__)
            name = str(request.get("op"))
            if name not in OPERATIONS:
                raise InputError("op", "one of " + ", ".join(OPERATIONS), repr(name))
            result = OPERATIONS[name](self, request)
        except (InputError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            return {"id": _id(request), "ok": False, "error": _words(error)}
        return {"id": _id(request), "ok": True, **result}

    def trace(self) -> dict[str, Any]:
        """The session so far as a trace that replays."""
        return {
            "trace": self.name,
            "description": "recorded by sevref serve",
            "instances": self.configs,
            "facts": {},
            "steps": self.steps,
        }

    def _instance(self, request: Mapping[str, Any]) -> Instance[Notebook]:
        name = request.get("fw", "A")
        if name not in self.instances:
            raise InputError("fw", "a platform that was created", repr(name))
        return self.instances[name]

    def _record(self, request: Mapping[str, Any], **step: Any) -> None:
        self.steps.append({"i": len(self.steps), "op": request["op"], "fw": request.get("fw", "A"), **step})

    def _hello(self, request: Mapping[str, Any]) -> dict[str, Any]:
        from sevref import __version__

        return {"sevref": __version__, "protocol": PROTOCOL, "ops": list(OPERATIONS)}

    def _create(self, request: Mapping[str, Any]) -> dict[str, Any]:
        name = request.get("fw", "A")
        if not isinstance(name, str) or name in self.instances:
            raise InputError("fw", "a name that is not taken", repr(name))
        config = {key: value for key, value in request.items() if key not in ("id", "op", "fw", "seed")}
        config.setdefault("profile", "SPEC_0_24")
        config.setdefault("machine", {})
        if isinstance(config["machine"], dict) and "seed" not in config["machine"]:
            # A replay needs the same hardware: chip, tweak constants.
            seed = _hex(request, "seed") if "seed" in request else OsRandom().draw(32)
            config["machine"] = {**config["machine"], "seed": seed.hex()}
        source = random_source(_hex(request, "seed") if "seed" in request else None, name)
        self.instances[name] = instance = Instance(name, config, Notebook(source))
        self.configs[name] = config
        return {"fw": name, "profile": config["profile"], "machine": repr(instance.machine)}

    def _write(self, request: Mapping[str, Any]) -> dict[str, Any]:
        instance, data = self._instance(request), _hex(request, "hex")
        self._put(instance, request, data)
        self._record(request, addr=request["addr"], hex=data.hex(), asid=number(request.get("asid", 0)))
        return {}

    def _fill(self, request: Mapping[str, Any]) -> dict[str, Any]:
        instance, pattern, length = self._instance(request), _hex(request, "pattern"), _size(request, "length")
        if not pattern:
            raise InputError("pattern", "hex digits", "none")
        self._put(instance, request, (pattern * (length // len(pattern) + 1))[:length])
        asid = number(request.get("asid", 0))
        self._record(request, addr=request["addr"], length=length, pattern=pattern.hex(), asid=asid)
        return {}

    def _put(self, instance: Instance[Notebook], request: Mapping[str, Any], data: bytes) -> None:
        address, asid = _address(request, "addr"), _asid(instance, request)
        instance.machine.dram.view(address & ~instance.machine.map.c_mask, len(data))  # InputError outside DRAM
        instance.put(address, data, asid)

    def _read(self, request: Mapping[str, Any]) -> dict[str, Any]:
        instance, address, length = self._instance(request), _address(request, "addr"), _size(request, "length")
        asid = _asid(instance, request)
        if asid:
            data = instance.machine.umc.read(asid, address & ~instance.machine.map.c_mask, length)
        else:
            data = instance.machine.host_read(address, length)
        last = self.steps[-1] if self.steps else {}
        if last.get("op") == "cmd" and last["fw"] == request.get("fw", "A"):  # memory read just after a command
            if asid:
                last["guest_mem_out"].append({"addr": hex(address), "asid": asid, "plain": data.hex()})
            else:
                last["mem_out"][hex(address)] = data.hex()
        return {"hex": data.hex()}

    def _cmd(self, request: Mapping[str, Any]) -> dict[str, Any]:
        instance = self._instance(request)
        command_id = _command(request)
        address = number(request.get("cmdbuf_addr", DEFAULT_BUFFER))
        buffer = _hex(request, "cmdbuf_in") if "cmdbuf_in" in request else b""
        for chunk in request.get("rng", ()):
            instance.rng.push(bytes.fromhex(chunk))
        mem_in = {place: bytes.fromhex(data) for place, data in request.get("mem_in", {}).items()}
        for place, data in mem_in.items():
            instance.put(number(place), data)
        if buffer:
            instance.put(address, buffer + bytes(16))
        instance.rng.chunks.clear()
        status = instance.platform.mailbox(command_id, address)
        row = COMMANDS.get(command_id)
        after = _peek(instance, address, max(len(buffer), row.size if row else 0))
        refusal = instance.platform.refusal
        handle = _handle(row.name if row else "", buffer, after)
        self._record(
            request,
            cmd=row.name if row else hex(command_id),
            id=command_id,
            **{"in": {}},
            cmdbuf_in=buffer.hex(),
            cmdbuf_addr=address,
            mem_in={place: data.hex() for place, data in mem_in.items()},
            rng=[chunk.hex() for chunk in instance.rng.chunks],
            status_code=int(status),
            status=status.name,
            out={},
            cmdbuf_out=after.hex(),
            mem_out={},
            guest_mem_out=[],
            after=instance.states(handle),
        )
        rule = "" if refusal is None else refusal.rule
        return {"status_code": int(status), "status": status.name, "rule": rule, "cmdbuf_out": after.hex()}

    def _wbinvd(self, request: Mapping[str, Any]) -> dict[str, Any]:
        machine = self._instance(request).machine
        mask = number(request.get("ccx_mask", (1 << machine.ccxs) - 1))
        machine.wbinvd([core for core in range(len(machine.wbinvd_done)) if mask >> machine.ccx_of(core) & 1])
        self._record(request, ccx_mask=mask)
        return {}

    def _boot(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._instance(request).machine.power_cycle()
        self._record(request)
        return {}

    def _states(self, request: Mapping[str, Any]) -> dict[str, Any]:
        handle = request.get("handle")
        return self._instance(request).states(None if handle is None else number(handle))

    def _why(self, request: Mapping[str, Any]) -> dict[str, Any]:
        found = rules(str(request.get("cmd")))
        return {"rules": [{**vars(rule), "status": rule.status.name} for rule in found]}


OPERATIONS: Mapping[str, Callable[[Server, Mapping[str, Any]], dict[str, Any]]] = {
    "hello": Server._hello,
    "create": Server._create,
    "write": Server._write,
    "fill": Server._fill,
    "read": Server._read,
    "cmd": Server._cmd,
    "wbinvd": Server._wbinvd,
    "boot": Server._boot,
    "states": Server._states,
    "why": Server._why,
}


def serve(lines: Iterable[str | bytes], write: Callable[[str], object], server: Server) -> None:
    """Answer every line until the input ends."""
    for line in lines:
        if line.strip():
            write(json.dumps(server.answer(line)) + "\n")


def _id(request: Any) -> Any:
    return request.get("id") if isinstance(request, dict) else None


def _words(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"request: {error.args[0]!r} is missing"
    if isinstance(error, json.JSONDecodeError):
        return f"request: not JSON: {error}"
    return str(error) or type(error).__name__


def _hex(request: Mapping[str, Any], key: str) -> bytes:
    try:
        return bytes.fromhex(request[key])
    except (TypeError, ValueError):
        raise InputError(key, "hex digits", "something else") from None


def _address(request: Mapping[str, Any], key: str) -> int:
    value = number(request[key])
    if not 0 <= value < 1 << 64:
        raise InputError(key, "an address of 64 bits", value)
    return value


def _size(request: Mapping[str, Any], key: str) -> int:
    value = number(request[key])
    if not 0 < value <= LIMIT:
        raise InputError(key, f"1 to {LIMIT} bytes", value)
    return value


def _asid(instance: Instance[Notebook], request: Mapping[str, Any]) -> int:
    asid = number(request.get("asid", 0))
    if not 0 <= asid <= instance.machine.max_asid:
        raise InputError("asid", f"0 to {instance.machine.max_asid}", asid)
    return asid


def _command(request: Mapping[str, Any]) -> int:
    wanted = request["cmd"]
    if isinstance(wanted, str) and wanted.upper() in BY_NAME:
        return BY_NAME[wanted.upper()].id
    return number(wanted)


def _peek(instance: Instance[Notebook], address: int, size: int) -> bytes:
    try:
        return instance.machine.host_read(address, size) if size else b""
    except InputError:  # the buffer is not in DRAM
        return b""


def _handle(name: str, before: bytes, after: bytes) -> int | None:
    """The guest that a command was about, for the states after it."""
    row = BY_NAME.get(name)
    if row is None or row.buffer is None or not any(field.name == "handle" for field in row.buffer.fields):
        return None
    data = after if name in ("LAUNCH_START", "RECEIVE_START") else before
    parsed: Any = row.buffer.parse(data[: row.size]) if len(data) >= row.size else None
    return None if parsed is None else int(parsed.handle)
