"""Key management under attack: platform, AMD and guest owner at the machine's end of the pipe.

Each case says what the verifier requires; the same attack works or fails with it. The firmware's answers are those of
its API version. What a leaked key is worth is published; how the key leaked is not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sevref.attacks.catalogue import SOFTWARE, Attack
from sevref.attacks.lab import Attacker, Outcome
from sevref.attacks.victim import SCRATCH
from sevref.certs import Chain, SevCertificate, parse_certificate
from sevref.driver import Platform
from sevref.firmware.identity import derive_cek
from sevref.machine import Machine
from sevref.measurement import launch_digest
from sevref.roles import GuestOwner, SimulatedAmd
from sevref.status import InputError, SevError

SECRET = b"the disk key of the guest owner."
IMAGE = bytes(range(256)) * 16


@dataclass(frozen=True)
class Case:
    """One attack against one verifier. ``works`` is what must come out, ``requires`` what the verifier asks for."""

    attack: str
    requires: str
    works: bool
    minimum_api: tuple[int, int] = (0, 24)
    policy_api: tuple[int, int] = (0, 0)
    checks_chain: bool = True
    once: bool = True
    nodbg: bool = True
    firmware: tuple[int, int, int] = (0, 24, 15)
    old_minor: int = 16
    new_identity: bool = True


class KeyWorld:
    """A platform, its AMD, and an owner with a secret for one guest."""

    def __init__(self, case: Case, seed: bytes = b"attack lab") -> None:
        self.case = case
        self.machine = Machine("milan", seed=seed, dram_size=8 << 20)
        self.platform = Platform(self.machine, version=case.firmware)
        self.platform.init()
        self.machine.wbinvd()
        self.platform.df_flush()
        self.amd = SimulatedAmd("milan", seed=seed)
        self.amd.enrol(self.machine)
        kind = GuestOwner if case.checks_chain else CarelessOwner
        self.owner = kind(self.amd.roots, minimum_api=case.minimum_api, seed=seed, allow_debug=not case.nodbg)
        self.answered = False
        self.notes: list[str] = []

    @property
    def policy(self) -> int:
        """The owner's policy: no debugging unless it does not mind, and its minimum API."""
        major, minor = self.case.policy_api
        return int(self.case.nodbg) | major << 16 | minor << 24

    def got_secret(self, claim: dict[str, Any]) -> bool:
        """Whether the attacker has the secret, or every guest that it names has it."""
        if "secret" in claim:
            return bytes.fromhex(claim["secret"])[: len(SECRET)] == SECRET
        read = self.machine.umc.read
        return all(read(guest["asid"], guest["at"], len(SECRET)) == SECRET for guest in claim["guests"])


class OwnerRefuses(InputError):
    """The guest owner does not answer."""


class CarelessOwner(GuestOwner):
    """A guest owner who takes every PDH: what happens without a chain."""

    def _trusted_pdh(self, chain: Chain) -> tuple[SevCertificate, tuple[int, int]]:
        if chain.pdh is None:
            raise InputError("chain", "a PDH", "none")
        return chain.pdh, (0, 24)


class KeyServer:
    """What the attacker between owner, AMD and AMD-SP can do."""

    def __init__(self, world: KeyWorld) -> None:
        self.world = world
        case, machine = world.case, world.machine
        self.brief: dict[str, Any] = {
            "c_bit": machine.map.c_bit,
            "scratch": SCRATCH,
            "policy": world.policy,
            "image": IMAGE,
            "chip_id": world.platform.get_id(),
            "ask": world.amd.roots.ask.pack(),
            "ark": world.amd.roots.ark.pack(),
            "old_minor": case.old_minor,
            "new_identity": case.new_identity,
            "api": case.firmware[:2],
        }
        if case.attack == "leaked_cek":  # a chip secret that was glitched out of some chip of AMD's
            self.brief["leaked_cek"] = str(derive_cek(machine.fused_chip_key()).d)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Serve one request. What the guest owner refuses is a refusal with its status."""
        try:
            return {"answer": self._serve(request)}
        except SevError as error:
            return {"refused": f"guest owner: {error.status.name}", "why": error.rule}
        except OwnerRefuses as error:
            return {"refused": "guest owner", "why": str(error)}
        except InputError as error:
            return {"refused": type(error).__name__, "why": str(error)}

    def _serve(self, request: dict[str, Any]) -> Any:
        world, op = self.world, request["op"]
        owner, machine = world.owner, world.machine
        if op == "read":
            return machine.host_read(request["address"], request["size"])
        if op == "write":
            return machine.host_write(request["address"], bytes.fromhex(request["data"]))
        if op == "mailbox":
            return world.platform.mailbox(request["command"], request["address"]).name
        if op == "wbinvd":
            return machine.wbinvd()
        if op == "note":
            return world.notes.append(request["what"])
        if op == "amd":
            return world.amd.certify(bytes.fromhex(request["chip_id"])).pack()
        if op == "owner_open":
            certs = {name: parse_certificate(bytes.fromhex(cert)) for name, cert in request["certs"].items()}
            opened = owner.open_session(Chain(**certs), request["policy"])  # type: ignore[arg-type]
            return {"godh": opened.godh.pack(), "session": opened.session.pack()}
        if op == "owner_measure":
            if world.answered and world.case.once:
                raise OwnerRefuses("session", "a session that has had no answer yet", "one that has")
            blob = bytes.fromhex(request["blob"])
            api = (request["api"][0], request["api"][1])
            return owner.check_measurement(blob, launch_digest(IMAGE), api=api, build=request["build"])
        if op == "owner_secret":
            header, payload = owner.package_secret(SECRET)
            world.answered = True
            return {"header": header.pack(), "payload": payload}
        raise InputError("request", "something a man in the middle can do", op)


def _judge(world: Any, claim: dict[str, Any]) -> bool:
    return bool(world.got_secret(claim))


#: title, where published, what stops it
_TEXTS = {
    "impersonate": (
        "A platform with a CEK that AMD has not certified", "follows from the chain's purpose",
        "the chain up to AMD's root",
    ),
    "borrowed_cek": (
        "A platform that shows another chip's certified CEK", "follows from the chain's purpose",
        "the CEK's signature on the PEK",
    ),
    "leaked_cek": (
        "A platform that does not exist, endorsed by a leaked CEK",
        "Buhren et al. 2019 (Insecure until proven updated), 2021 (glitching)",
        "nothing in SEV: a CEK depends on the chip alone; SNP's VCEK also on the firmware's versions",
    ),
    "clone": (
        "Replay the session: a second guest with the same keys", "follows from the API: a session is not fresh",
        "an owner who answers each session once",
    ),
    "rollback": (
        "Old firmware on the platform", "Buhren et al. 2019 (K)",
        "a minimum API in the verifier, and in the policy or against the measurement",
    ),
    "downgrade": ("Launch under another policy", "AMD's API: POLICY_MAC", "the session's POLICY_MAC; the measurement"),
    "wrong_guest": (
        "The secret of one guest into another one", "AMD's API 0.17 added the measurement to the MAC",
        "API 0.17 and later: the secret's MAC covers the measurement",
    ),
}  # fmt: skip
KEY_ATTACKS: dict[str, Attack] = {
    name: Attack(f"K{i}", name, title, SOFTWARE, published, stops, _judge, module="keys",
                 label="commands and MACs as AMD's API describes them; roots and chip are simulated, with test keys")
    for i, (name, (title, published, stops)) in enumerate(_TEXTS.items(), 1)
}  # fmt: skip

CASES: tuple[Case, ...] = (
    Case("impersonate", "the whole chain", False),
    Case("impersonate", "nothing: takes any PDH", True, checks_chain=False),
    Case("borrowed_cek", "the whole chain", False),
    Case("leaked_cek", "the whole chain, API 0.24 or later", True),
    Case("clone", "answers a session as often as asked", True, once=False),
    Case("clone", "answers each session once", False),
    Case("rollback", "API 0.24 in the certificates (made anew by the old firmware)", False),
    Case("rollback", "no minimum", True, minimum_api=(0, 0)),
    Case("rollback", "API 0.24 against the measurement (certificates kept from newer firmware)", False,
         old_minor=20, new_identity=False),
    Case("rollback", "API 0.24 in the policy (certificates kept from newer firmware)", False, minimum_api=(0, 0),
         policy_api=(0, 24), old_minor=20, new_identity=False),
    Case("downgrade", "NODBG in its policy", False),
    Case("downgrade", "a policy that allows debugging", True, nodbg=False),
    Case("wrong_guest", "API 0.24 or later", False),
    Case("wrong_guest", "takes API 0.16", True, minimum_api=(0, 0), firmware=(0, 16, 15)),
)  # fmt: skip


@dataclass(frozen=True)
class KeyOutcome:
    """A case, what came out, and what else was noticed on the way."""

    case: Case
    outcome: Outcome
    notes: list[str] = field(default_factory=list)

    def line(self) -> dict[str, str]:
        """A row for a table."""
        attack = KEY_ATTACKS[self.case.attack]
        stopped = self.outcome.refused or "nobody"
        return {
            "attack": attack.title,
            "the verifier requires": self.case.requires,
            "secret lost": "yes" if self.outcome.works else "no",
            "stopped by": "nobody" if self.outcome.works else stopped,
        }


def run_case(case: Case, seed: bytes = b"attack lab") -> KeyOutcome:
    """Run one case, the attacker in a process of its own."""
    return run_cases([case], seed)[0]


def run_cases(cases: tuple[Case, ...] | list[Case] = CASES, seed: bytes = b"attack lab") -> list[KeyOutcome]:
    """Run cases, one process for each attack."""
    found = []
    for name in dict.fromkeys(case.attack for case in cases):
        with Attacker(KEY_ATTACKS[name]) as attacker:
            for case in (case for case in cases if case.attack == name):
                world = KeyWorld(case, seed)
                found.append(KeyOutcome(case, attacker.run(KeyServer(world)), world.notes))
    return found
