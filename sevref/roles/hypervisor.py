"""The hypervisor: drives the firmware, holds no key, sees every buffer and every ciphertext.

This one is honest; what a hostile one may try goes through the same calls. It places a guest as QEMU does: RAM from
guest-physical address 0, the firmware image right below 4 GiB.
"""

from __future__ import annotations

from collections.abc import Sequence

from sevref.certs import Chain, SevCertificate
from sevref.driver import Exchange, Platform
from sevref.machine import PAGE, VCpu
from sevref.measurement import AttestationReport, MeasurementBlob
from sevref.policy import Policy
from sevref.roles.amd import SimulatedAmd
from sevref.status import InputError, SevError, Status
from sevref.transport import PacketHeader, Session

FOUR_GIB = 1 << 32
GUESTS_START = 0x100000


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


class Hypervisor:
    """A host with one platform. ``boot`` initialises it, ``launch`` starts guests.

    It gives every command through ``platform`` and raises what that raises.

        >>> from sevref import Hypervisor, Machine, Platform
        >>> host = Hypervisor(Platform(Machine("milan", seed=b"docs")))
        >>> host.boot()
        >>> guest = host.launch(bytes(4096), policy=1)
        >>> [step.message for step in host.log]
        ['INIT', 'DF_FLUSH', 'LAUNCH_START', 'ACTIVATE', 'LAUNCH_UPDATE_DATA']
    """

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self._next_page = GUESTS_START
        self._used_asids: set[int] = set()
        self._dirty_asids: set[int] = set()
        self._freed: list[tuple[int, int]] = []

    @property
    def log(self) -> list[Exchange]:
        """Every command given so far, as the platform's driver recorded it."""
        return self.platform.log

    def boot(self, es: bool = False) -> None:
        """INIT, WBINVD on every core, DF_FLUSH: after this ASIDs are clean. ``es``: SEV-ES guests are possible.

        ``SevError`` as ``Platform.init`` and ``Platform.df_flush``."""
        self.platform.init(es)
        self.flush()

    def flush(self) -> None:
        """WBINVD on every core, then DF_FLUSH: ASIDs of guests that ended can be used again."""
        self.platform.machine.wbinvd()
        self.platform.df_flush()
        self._dirty_asids.clear()

    def certificates(self, amd: SimulatedAmd) -> Chain:
        """The platform's chain, complete: what the firmware exports, the CEK signed by AMD, and AMD's own two.

        ``amd`` must know the chip (``SimulatedAmd.enrol``), else ``InputError``; ``SevError`` INVALID_PLATFORM_STATE
        before ``boot``."""
        exported = self.platform.pdh_cert_export()
        cek = amd.certify(self.platform.get_id(), exported.cek)
        return exported.replace(cek=cek, exported_cek=exported.cek, ask=amd.roots.ask, ark=amd.roots.ark)

    def allocate(self, size: int) -> int:
        """System physical address of ``size`` bytes (rounded up to pages of 4096) that nobody uses.

        ``SevError`` RESOURCE_LIMIT when DRAM is full."""
        for index, (paddr, room) in enumerate(self._freed):
            if room >= _pages(size):
                self._freed[index] = paddr + _pages(size), room - _pages(size)
                return paddr
        start, limit = self._next_page, self.platform.default_tmr
        if start + _pages(size) > limit:
            raise SevError(Status.RESOURCE_LIMIT, f"host memory: {size} bytes wanted, {limit - start} are left")
        self._next_page += _pages(size)
        return start

    def free(self, paddr: int, size: int) -> None:
        """What ``allocate`` gave may be allocated again."""
        self._freed.append((paddr, _pages(size)))

    def pick_asid(self, es: bool) -> int:
        """An ASID of the right half that this host does not use, for a guest with or without SEV-ES.

        ``SevError`` RESOURCE_LIMIT if there is none."""
        machine = self.platform.machine
        half = range(1, machine.min_sev_asid) if es else range(machine.min_sev_asid, machine.max_asid + 1)
        free = next((asid for asid in half if asid not in self._used_asids), None)
        if free is None:
            raise SevError(Status.RESOURCE_LIMIT, f"no ASID is left for a guest {'with' if es else 'without'} SEV-ES")
        self._used_asids.add(free)
        return free

    def release_asid(self, asid: int) -> None:
        """The ASID may be picked again (after ``flush``)."""
        self._used_asids.discard(asid)
        self._dirty_asids.add(asid)

    def make_room(self, handle: int, es: bool, ram_size: int, image_size: int, vmsas: int) -> GuestVm:
        """Memory and a clean ASID for a guest that the firmware knows; sizes in bytes, ``vmsas`` register pages.

        ``SevError`` RESOURCE_LIMIT, nothing taken, without them."""
        sizes = [ram_size, image_size] + [PAGE] * vmsas
        total = sum(map(_pages, sizes))
        self.free(self.allocate(total), total)  # RESOURCE_LIMIT before anything is taken
        asid = self.pick_asid(es)
        if asid in self._dirty_asids:
            self.flush()
        vm = GuestVm(self, handle, asid, self.allocate(ram_size), _pages(ram_size), image_size)
        vm.vmsas += [self.allocate(PAGE) for _ in range(vmsas)]
        return vm

    def launch(
        self,
        image: bytes,
        policy: int,
        godh: SevCertificate | bytes | None = None,
        session: Session | bytes | None = None,
        *,
        vmsas: Sequence[bytes] = (),
        ram_size: int = 0x100000,
    ) -> GuestVm:
        """Start a launch: LAUNCH_START, ACTIVATE, LAUNCH_UPDATE_DATA of ``image``, LAUNCH_UPDATE_VMSA of each page.

        ``image`` is guest firmware (a multiple of 4096 bytes, else ``InputError``), ``vmsas`` are register pages of
        4096 bytes, ``ram_size`` is the guest's RAM in bytes. ``godh`` and ``session`` are the guest owner's, both or
        neither. ``SevError`` as the firmware answers, RESOURCE_LIMIT also without memory or ASID; nothing of the guest
        is left then. A host that has run out of clean ASIDs flushes first, as KVM does."""
        if len(image) % PAGE or not image:
            raise InputError("guest firmware image", "a multiple of 4096 bytes, not empty", f"{len(image)} bytes")
        platform, es = self.platform, Policy(policy).es
        handle = platform.launch_start(policy, godh, session)
        try:
            vm = self.make_room(handle, es, ram_size, len(image), len(vmsas))
        except SevError:
            platform.decommission(handle)
            raise
        try:
            platform.activate(handle, vm.asid)
        except SevError:
            platform.decommission(handle)
            vm.release()
            raise
        try:
            platform.machine.host_write(vm.image_paddr, image)
            platform.launch_update_data(handle, vm.image_paddr, len(image))
            for paddr, vmsa in zip(vm.vmsas, vmsas, strict=True):
                platform.machine.host_write(paddr, vmsa)
                platform.launch_update_vmsa(handle, paddr)
        except BaseException:
            vm.stop()
            raise
        return vm


class GuestVm:
    """A guest as its hypervisor knows it: a handle, an ASID, and where its memory lies in the host."""

    def __init__(
        self, host: Hypervisor, handle: int, asid: int, ram_paddr: int, ram_size: int, image_size: int
    ) -> None:
        self.host, self._platform = host, host.platform
        self.handle, self.asid = handle, asid
        self.ram_paddr, self.ram_size = ram_paddr, ram_size
        self.image_paddr, self.image_size = host.allocate(image_size), image_size
        self.vmsas: list[int] = []  #: host address of each vCPU's register page (SEV-ES)
        self.shared: set[int] = set()  #: guest pages that the guest has said it shares with the host

    @property
    def image_gpa(self) -> int:
        """Guest-physical address of the firmware image: it ends at 4 GiB."""
        return FOUR_GIB - self.image_size

    def paddr(self, gpa: int) -> int:
        """System physical address of a guest-physical one. ``InputError`` outside RAM and image."""
        if 0 <= gpa < self.ram_size:
            return self.ram_paddr + gpa
        if self.image_gpa <= gpa < FOUR_GIB:
            return self.image_paddr + gpa - self.image_gpa
        raise InputError("guest-physical address", f"RAM below 0x{self.ram_size:X} or the image", f"0x{gpa:X}")

    def nested(self) -> dict[int, int]:
        """The nested page table: guest-physical page -> system physical page, every 4096 bytes."""
        table = {gpa: self.ram_paddr + gpa for gpa in range(0, self.ram_size, PAGE)}
        table.update({self.image_gpa + i: self.image_paddr + i for i in range(0, self.image_size, PAGE)})
        return table

    def measure(self) -> MeasurementBlob:
        """LAUNCH_MEASURE: measurement and nonce, 48 bytes; ``SevError`` as ``Platform.launch_measure``."""
        return self._platform.launch_measure(self.handle)

    def inject_secret(self, header: PacketHeader | bytes, payload: bytes, gpa: int) -> None:
        """LAUNCH_SECRET to the guest-physical address ``gpa``, a multiple of 16.

        ``InputError`` outside RAM and image, ``SevError`` as ``Platform.launch_secret``."""
        self._platform.launch_secret(self.handle, header, payload, self.paddr(gpa))

    def finish(self) -> None:
        """LAUNCH_FINISH: from now on a vCPU may run; ``SevError`` as ``Platform.launch_finish``."""
        self._platform.launch_finish(self.handle)

    def attest(self, mnonce: bytes) -> AttestationReport:
        """ATTESTATION with a nonce of 16 bytes: a report of 208 bytes; ``SevError`` as ``Platform.attestation``."""
        return self._platform.attestation(self.handle, mnonce)

    def vcpu(self) -> VCpu:
        """The running guest's own view. ``VmrunFailed`` before ``finish``."""
        return self._platform.machine.vcpu(self.asid, nested=self.nested())

    def seen_by_host(self, gpa: int, size: int) -> bytes:
        """The ``size`` raw bytes that the hypervisor finds where the guest has ``gpa``: ciphertext."""
        return self._platform.machine.host_read(self.paddr(gpa), size)

    def stop(self) -> None:
        """DEACTIVATE and DECOMMISSION; the host has its memory and, after the next flush, its ASID back."""
        self._platform.deactivate(self.handle)
        self._platform.decommission(self.handle)
        self.release()

    def release(self) -> None:
        """The host takes ASID and memory of a guest that is gone."""
        self.host.release_asid(self.asid)
        for paddr, size in (self.ram_paddr, self.ram_size), (self.image_paddr, self.image_size):
            self.host.free(paddr, size)
        for paddr in self.vmsas:
            self.host.free(paddr, PAGE)
