"""Two platforms, their hypervisors, and a small guest to be moved."""

from __future__ import annotations

import functools

from sevref import SPEC_0_24 as SPEC
from sevref import (
    Chain,
    GuestOwner,
    Hypervisor,
    Machine,
    Platform,
    PlatformOwner,
    Profile,
    SevCertificate,
    SimulatedAmd,
)
from sevref.boot import build_firmware, build_vmsa
from sevref.policy import Policy
from sevref.roles import GuestVm

MIB = 1 << 20
RAM = 0x8000
TEXT = b"only the guest may read this"
TEXT_AT, SHARED_AT = 0x1008, 0x3000


@functools.cache
def image() -> bytes:
    return build_firmware(size=0x1000 * 8)


@functools.cache
def signed_cek(generation: str, name: str) -> SevCertificate:
    """AMD's signature is the slow part: made once for each chip."""
    machine = Machine(generation, seed=b"stage", name=name, dram_size=16 * MIB)
    amd = SimulatedAmd(generation, seed=b"amd")
    amd.enrol(machine)
    host = Hypervisor(Platform(machine))
    host.boot()
    return amd.certify(host.platform.get_id())


class Stage:
    """An initialised platform with its hypervisor and its complete chain."""

    def __init__(
        self,
        name: str,
        profile: Profile = SPEC,
        *,
        es: bool = True,
        owner: PlatformOwner | None = None,
        generation: str = "milan",
        version: tuple[int, int, int] | None = None,
    ) -> None:
        self.machine = Machine(generation, seed=b"stage", name=name, dram_size=16 * MIB)
        self.platform = Platform(self.machine, profile, version=version)
        self.host = Hypervisor(self.platform)
        self.host.boot(es)
        if owner is not None:
            self.platform.pek_cert_import(owner.sign_csr(self.platform.pek_csr()), owner.oca)
        self.roots = self.machine.amd
        self.cek = signed_cek(generation, name)

    @property
    def chain(self) -> Chain:
        exported = self.platform.pdh_cert_export()
        return exported.replace(cek=self.cek, exported_cek=exported.cek, ask=self.roots.ask, ark=self.roots.ark)

    @property
    def guests(self) -> int:
        return self.platform.platform_status().guest_count

    def guest(self, *names: str, api: tuple[int, int] = (0, 0), vcpus: int = 2, ram: int = RAM) -> GuestVm:
        """A running guest with ``TEXT`` in its memory and one page that it shares; NODBG is implied."""
        policy = Policy.make("NODBG", *names, api=api)
        self.host.flush()  # for the ASIDs of guests that have ended
        owner = GuestOwner(roots=self.roots, seed=b"owner", minimum_api=(0, 0))
        opened = owner.open_session(self.chain, policy)
        vmsas = [build_vmsa(0xFFFFFFF0 - 4096 * number) for number in range(vcpus)] if policy.es else []
        vm = self.host.launch(image(), policy, opened.godh, opened.session, vmsas=vmsas, ram_size=ram)
        vm.measure()
        vm.finish()
        vm.vcpu().write(TEXT_AT, TEXT)
        vm.vcpu().write(SHARED_AT, b"for the host", private=False)
        vm.shared.add(SHARED_AT)
        return vm


def memory(vm: GuestVm) -> dict[int, bytes]:
    """What the guest itself finds, page by page: shared pages as shared, all others as private."""
    vcpu = vm.vcpu()
    return {gpa: vcpu.read(gpa, 4096, private=gpa not in vm.shared) for gpa in vm.nested()}
