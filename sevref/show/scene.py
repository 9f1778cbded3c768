"""A small, seeded cast for the widgets: one machine, its hypervisor, the simulated AMD, a guest owner.

Every answer of a widget comes from a scene of its own, so that it depends on the controls and on nothing before.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from sevref.certs import Chain, SevCertificate
from sevref.driver import Exchange, Platform
from sevref.machine import Machine
from sevref.measurement import ApiVersion
from sevref.policy import Policy
from sevref.roles import GuestOwner, Hypervisor, SimulatedAmd
from sevref.status import SevError, Status
from sevref.transport import Opened

SEED = b"sevref.show"
NODBG = int(Policy.make("NODBG"))


@dataclass
class Scene:
    """An initialised platform (API and build as given) and the parties around it; ``log`` is everybody's."""

    platform: Platform
    hypervisor: Hypervisor
    owner: GuestOwner
    chain: Chain
    api: ApiVersion
    build: int

    @classmethod
    def build_up(cls, version: tuple[int, int, int] = (0, 24, 15)) -> Scene:
        """A fresh scene; the same version gives the same bytes everywhere."""
        machine = _machine()
        platform = Platform(machine, version=version)
        hypervisor = Hypervisor(platform)
        hypervisor.boot()
        cek = _signed_cek(platform.get_id())
        exported = platform.pdh_cert_export()
        chain = exported.replace(cek=cek, exported_cek=exported.cek, ask=machine.amd.ask, ark=machine.amd.ark)
        owner = GuestOwner(roots=machine.amd, minimum_api=(0, 0), seed=SEED)
        platform.log.clear()
        return cls(platform, hypervisor, owner, chain, version[:2], version[2])

    @property
    def log(self) -> list[Exchange]:
        return self.platform.log

    def open_session(self, policy: int) -> Opened:
        """The owner verifies the chain and makes a session; both go to the hypervisor."""
        opened = self.owner.open_session(self.chain, policy)
        self.say("guest owner", "hypervisor", "GODH, session, policy")
        return opened

    def say(self, source: str, target: str, message: str, status: Status | None = None, note: str = "") -> None:
        """Record a message between two parties."""
        self.log.append(Exchange(source, target, message, status, note))

    def refused(self, source: str, message: str, error: SevError) -> None:
        """Record what a party refuses to itself."""
        self.say(source, source, message, error.status)


@lru_cache
def _signed_cek(chip_id: bytes) -> SevCertificate:
    """The chip's CEK certificate: the simulated AMD is asked once, its answer serves every scene."""
    amd = SimulatedAmd("milan", seed=SEED)
    amd.enrol(_machine())
    return amd.certify(chip_id)


def _machine() -> Machine:
    return Machine("milan", seed=SEED, dram_size=8 << 20)
