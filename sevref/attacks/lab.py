"""The machine's end of the pipe: start an attacker's process, serve its requests, judge its claim."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import sevref
from sevref.attacks import victim as v
from sevref.attacks.catalogue import ATTACKS, Attack
from sevref.attacks.hostile.pipe import Pipe
from sevref.attacks.victim import World
from sevref.memory import EnginePreset
from sevref.status import InputError, Status

COPY = 0x24
_CHILD = "import sys; sys.path.insert(0, sys.argv.pop()); from sevref.attacks.hostile.main import main; main()"


@dataclass(frozen=True)
class Outcome:
    """What came out of one run of one attack.

    ``works``: the attacker got what it wanted, as judged where the victim lives. ``refused``: the fault, status or rule
    that ended it. ``claim``: what the attacker saw."""

    attack: str
    works: bool
    refused: str = ""
    why: str = ""
    claim: dict[str, Any] = field(default_factory=dict, repr=False)
    requests: int = 0


class Service(Protocol):
    """One machine behind the pipe: what the attacker knows at the start, and answers to its requests."""

    brief: dict[str, Any]
    world: Any

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        ...


class Attacker:
    """A process that runs one attack, on one machine after the other. Use as a context manager."""

    def __init__(self, attack: Attack | str) -> None:
        self.attack = ATTACKS[attack] if isinstance(attack, str) else attack
        package = str(Path(sevref.__file__).parent.parent)
        module = f"sevref.attacks.hostile.{self.attack.module}"
        # -I: no environment, no current directory. The pipe's two ends are all that the process inherits.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _CHILD, module, self.attack.function, package],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            close_fds=True,
            env={},
            cwd="/",
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._pipe = Pipe(self._process.stdin, self._process.stdout)

    def __enter__(self) -> Attacker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # what a dead process did not read
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:  # it hangs: nobody waits for it
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def run(self, server: Service) -> Outcome:
        """One run against one machine. ``RuntimeError`` if the attacker's process dies."""
        requests = 0
        try:
            self._pipe.send(server.brief)
            while (request := self._pipe.receive())["op"] != "end":
                requests += 1
                self._pipe.send(server.answer(request))
        except (EOFError, BrokenPipeError):
            raise RuntimeError(f"the process of attack {self.attack.id} died") from None
        claim = request["claim"]
        works = bool(claim) and self.attack.judge(server.world, claim)
        return Outcome(self.attack.id, works, request.get("refused", ""), request.get("why", ""), claim, requests)


class Server:
    """What the pipe offers of a ``World``, and nothing else."""

    def __init__(self, world: World, attack: Attack) -> None:
        self.world, self._attack = world, attack
        settings = world.machine.umc.engine.settings
        constants = world.machine.umc.engine.constants if settings.public_constants else None
        #: what the attacker knows when it begins: its own host, and what is published
        self.brief: dict[str, Any] = {
            "c_bit": world.machine.map.c_bit,
            "nested": {str(gpa): address for gpa, address in world.nested.items()},
            "constants": None if constants is None else {str(bit): t.hex() for bit, t in constants.items()},
            "mode": settings.mode.name,
            "handle": world.handle,
            "asid": world.asid,
            "own_asid": world.own_asid,
            "free_asid": world.free_asid,
            "own": v.ATTACKERS,
            "own_bits": 32,
            "scratch": v.SCRATCH,
            "save_area": v.SAVE_AREA,
            "pages": [world.nested[page * v.PAGE] for page in range(v.DATA_PAGES)],
            "resource": v.RESOURCE,
            "secret": v.SECRET,
            "counter": v.STATE,
            "request": v.REQUEST,
            "mask": v.LADDER + 0x40,
            "bits": 64,
            "rsa": v.RSA,
            "rsa_n": str(v.P * v.Q),
            "rsa_e": v.E,
            "kernel": v.KERNEL,
            "kernel_text": world.kernel,
            "check": v.CHECK,
            "wanted": b"\x90\x90",
            "alias": v.ALIAS_DISTANCE,
            "image": bytes(range(256)),
            "policy": 1,
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Serve one request; a refusal names its fault or status."""
        try:
            return {"answer": self._serve(request)}
        except InputError as error:
            return {"refused": type(error).__name__, "why": str(error)}

    def _serve(self, request: dict[str, Any]) -> Any:
        world, op = self.world, request["op"]
        machine = world.machine
        if op == "read":
            return machine.host_read(request["address"], request["size"])
        if op == "write":
            return machine.host_write(request["address"], bytes.fromhex(request["data"]))
        if op == "mailbox":
            if request["command"] == COPY and not world.page_moves:
                return Status.POLICY_FAILURE.name
            return world.platform.mailbox(request["command"], request["address"]).name
        if op == "remap":
            return world.remap(request["gpa"], request["address"])
        if op == "run":
            return world.victim.run(request["action"], request["arguments"])
        if op == "run_as":
            return world.run_as(request["asid"], request["address"], request["gpa"], request["size"])
        if op == "bus_read" and self._attack.bus:
            return machine.dram.read(request["address"], request["size"])
        if op == "bus_write" and self._attack.bus:
            return machine.dram.write(request["address"], bytes.fromhex(request["data"]))
        raise InputError("request", "something a hypervisor can do", op)


def run(
    attack: str | Attack,
    generation: str = "milan",
    protection: str = "SEV",
    *,
    engine: str | EnginePreset | None = None,
    seed: bytes = b"attack lab",
    **defences: bool,
) -> Outcome:
    """Run one attack of the catalogue in a process of its own, against a machine made for it.

    ``defences`` are ``alias_check`` and ``register_protection`` of ``World``."""
    with Attacker(attack) as attacker:
        return attacker.run(serve(attacker.attack, generation, protection, engine, seed, **defences))


def serve(
    attack: Attack,
    generation: str = "milan",
    protection: str = "SEV",
    engine: str | EnginePreset | None = None,
    seed: bytes = b"attack lab",
    **defences: bool,
) -> Server:
    """A machine with a victim for this attack, behind the pipe's server."""
    options: dict[str, Any] = {"kernel_size": attack.kernel_size} if attack.kernel_size else {}
    world = World(generation, engine, protection, seed=seed, alias=attack.alias, **options, **defences)
    return Server(world, attack)
