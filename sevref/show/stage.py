"""A stage that is set with one call: for the first section of a notebook, which shows its point before the long way."""

from __future__ import annotations

from sevref.driver import Platform
from sevref.machine import Machine
from sevref.measurement import launch_digest
from sevref.policy import Policy
from sevref.roles import GuestOwner, Hypervisor, PlatformOwner, SimulatedAmd
from sevref.roles.hypervisor import GuestVm

_NODBG = Policy.make("NODBG")


class Stage:
    """A platform that its hypervisor has booted, the simulated AMD (test keys) that knows its chip, and a guest owner
    who trusts that AMD. The same ``seed`` and ``name`` give the same bytes everywhere."""

    def __init__(self, seed: bytes, name: str = "platform A") -> None:
        self.machine = Machine("milan", seed=seed, name=name, dram_size=16 << 20)
        self.platform = Platform(self.machine)
        self.hypervisor = Hypervisor(self.platform)
        self.hypervisor.boot()
        self.amd = SimulatedAmd("milan", seed=seed)
        self.amd.enrol(self.machine)
        self.guest_owner = GuestOwner(roots=self.amd.roots, seed=seed)
        self.platform_owner = PlatformOwner(seed=seed)
        self.chain = self.hypervisor.certificates(self.amd)

    def take_ownership(self) -> None:
        """The platform owner signs the PEK and imports it; ``chain`` is exported anew."""
        signed = self.platform_owner.sign_csr(self.platform.pek_csr())
        self.platform.pek_cert_import(signed, self.platform_owner.oca)
        self.chain = self.hypervisor.certificates(self.amd)

    def launch(self, image: bytes, policy: int = _NODBG) -> GuestVm:
        """A guest in state LSECRET whose measurement its owner has compared; the default policy is NODBG.

        ``SevError`` BAD_MEASUREMENT if the owner does not accept the measurement.
        """
        opened = self.guest_owner.open_session(self.chain, policy)
        vm = self.hypervisor.launch(image, policy, opened.godh, opened.session, ram_size=0x10000)
        self.guest_owner.check_measurement(vm.measure(), launch_digest(image))
        return vm
