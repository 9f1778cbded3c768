"""The driver: typed calls above the mailbox, as a host's kernel makes them.

Each call puts a command buffer into DRAM, rings the mailbox, decodes the answer and raises ``SevError`` unless the
status is SUCCESS. There is no other way into the firmware: what a call can do, a hypervisor can do by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from sevref.certs import Chain, SevCertificate
from sevref.firmware import BY_NAME, SPEC_0_24, ApiVersion, GuestState, Profile, SecureProcessor
from sevref.firmware import buffers as b
from sevref.firmware.platform import CERT_LEN, CHAIN_LEN, ID_LEN, TMR_SIZE
from sevref.layout import Layout
from sevref.machine import Machine
from sevref.measurement import AttestationReport, MeasurementBlob
from sevref.policy import Policy
from sevref.status import InputError, SevError, Status
from sevref.transport import PacketHeader, Session

B = TypeVar("B", bound=Layout)
SCRATCH_SIZE = 0x10000


@dataclass(frozen=True)
class Exchange:
    """One message between two parties, for logs and sequence diagrams. ``status`` is None where there is none."""

    source: str
    target: str
    message: str
    status: Status | None = None
    note: str = ""


@dataclass(frozen=True)
class GuestInfo:
    """Answer of GUEST_STATUS; ``asid`` is 0 when the guest is not bound."""

    handle: int
    policy: Policy
    asid: int
    state: GuestState


@dataclass
class Scratch:
    """Bump allocator over the driver's own piece of DRAM, for the length of one call."""

    machine: Machine
    base: int
    size: int
    used: int = field(default=0)

    def place(self, data: bytes) -> int:
        """Copy ``data`` into the scratch area; its address, 16-byte aligned."""
        start = self.used
        if start + len(data) > self.size:
            raise InputError("driver buffer", f"at most {self.size - start} bytes", f"{len(data)} bytes")
        self.used = start + len(data) + 15 & ~15
        self.machine.dram.write(self.base + start, data)
        return self.base + start


class Platform:
    """A machine with its AMD-SP and a driver.

    ``version`` (major, minor, build) overrides what the profile's firmware says it is. The driver keeps the last
    64 KiB of the first DRAM region (below TSEG, if there is one) for its buffers. ``log`` records every command.
    """

    def __init__(
        self,
        machine: Machine,
        profile: Profile = SPEC_0_24,
        *,
        version: tuple[int, int, int] | None = None,
        log: list[Exchange] | None = None,
    ) -> None:
        self.machine, self.profile = machine, profile
        self._firmware = SecureProcessor(machine, profile, None if version is None else ApiVersion(*version))
        self.log: list[Exchange] = [] if log is None else log
        start, size = machine.map.dram[0]
        end = start + size if machine.map.tseg is None else min(start + size, machine.map.tseg[0])
        self._scratch = end - SCRATCH_SIZE
        #: where ``init(es=True)`` puts the trusted memory region by default: 1 MiB, aligned, below the driver's buffers
        self.default_tmr = (self._scratch - TMR_SIZE) & ~(TMR_SIZE - 1)

    def __repr__(self) -> str:
        return f"Platform({self.machine.name!r}, {self.machine.generation.name}, {self.profile.name})"

    # -- the mailbox

    def mailbox(self, command_id: int, address: int = 0) -> Status:
        """Ring the mailbox: command id and system physical address of the command buffer; the status, unexplained.

        ``NotBuiltError`` for a command that this version of sevref does not implement."""
        return self._firmware.command(command_id, address)

    def call(self, name: str, buffer: B | None = None, *, scratch: Scratch | None = None, note: str = "") -> B | None:
        """One command by name: place ``buffer``, ring, raise ``SevError`` on refusal, return the buffer afterwards."""
        row = BY_NAME[name]
        scratch = scratch or self._fresh()
        address = 0 if buffer is None else scratch.place(buffer.pack())
        status = self.mailbox(row.id, address)
        self.log.append(Exchange("hypervisor", "AMD-SP", name, status, note))
        if status is not Status.SUCCESS:
            raise self._firmware.refusal or SevError(status, status.meaning, name)
        return None if buffer is None else type(buffer).parse(self.machine.dram.read(address, buffer.SIZE))

    def _fresh(self) -> Scratch:
        return Scratch(self.machine, self._scratch, SCRATCH_SIZE)

    def _answer(self, name: str, buffer: B, scratch: Scratch | None = None, note: str = "") -> B:
        answer = self.call(name, buffer, scratch=scratch, note=note)
        assert answer is not None
        return answer

    # -- platform

    def init(self, es: bool = False, *, tmr: int | None = None) -> None:
        """INIT; with ``es`` the 1 MiB at ``tmr`` become the firmware's trusted memory region."""
        paddr = (self.default_tmr if tmr is None else tmr) if es else 0
        self.call("INIT", b.InitBuffer(options=int(es), tmr_paddr=paddr, tmr_length=TMR_SIZE if es else 0))

    def shutdown(self) -> None:
        """SHUTDOWN: back to UNINIT, every guest is gone."""
        self.call("SHUTDOWN")

    def platform_status(self) -> b.PlatformStatusBuffer:
        """PLATFORM_STATUS: API version, state, owner, configuration, guest count."""
        return self._answer("PLATFORM_STATUS", b.PlatformStatusBuffer())

    def pdh_cert_export(self) -> Chain:
        """PDH_CERT_EXPORT: PDH, PEK, OCA and CEK. The CEK is not signed: AMD's service signs it (``get_id``)."""
        scratch = self._fresh()
        pdh, certs = scratch.place(bytes(CERT_LEN)), scratch.place(bytes(CHAIN_LEN))
        self._answer(
            "PDH_CERT_EXPORT",
            b.PdhCertExportBuffer(pdh_cert_paddr=pdh, pdh_cert_len=CERT_LEN, certs_paddr=certs, certs_len=CHAIN_LEN),
            scratch,
        )
        data = self.machine.dram.read(certs, CHAIN_LEN)
        pek, oca, cek = (SevCertificate.parse(data[i : i + CERT_LEN]) for i in range(0, CHAIN_LEN, CERT_LEN))
        return Chain(pdh=SevCertificate.parse(self.machine.dram.read(pdh, CERT_LEN)), pek=pek, oca=oca, cek=cek)

    def get_id(self) -> bytes:
        """GET_ID: the chip's id, 64 bytes, under which AMD's service certifies its CEK."""
        scratch = self._fresh()
        place = scratch.place(bytes(ID_LEN))
        self._answer("GET_ID", b.GetIdBuffer(id_paddr=place, id_len=ID_LEN), scratch)
        return self.machine.dram.read(place, ID_LEN)

    def pek_csr(self) -> SevCertificate:
        """PEK_CSR: the PEK certificate without signatures, for the owner to sign."""
        scratch = self._fresh()
        place = scratch.place(bytes(CERT_LEN))
        self._answer("PEK_CSR", b.PekCsrBuffer(csr_paddr=place, csr_len=CERT_LEN), scratch)
        return SevCertificate.parse(self.machine.dram.read(place, CERT_LEN))

    def pek_cert_import(self, pek: SevCertificate, oca: SevCertificate) -> None:
        """PEK_CERT_IMPORT: the PEK signed by the owner, and the owner's OCA. The firmware makes a new PDH."""
        scratch = self._fresh()
        buffer = b.PekCertImportBuffer(
            pek_cert_paddr=scratch.place(pek.pack()),
            pek_cert_len=CERT_LEN,
            oca_cert_paddr=scratch.place(oca.pack()),
            oca_cert_len=CERT_LEN,
        )
        self.call("PEK_CERT_IMPORT", buffer, scratch=scratch)

    def df_flush(self) -> None:
        """DF_FLUSH: dirty ASIDs become clean on every CCX whose cores have executed WBINVD."""
        self.call("DF_FLUSH")

    # -- guests

    def activate(self, handle: int, asid: int) -> None:
        """ACTIVATE: load the guest's key into the slot of ``asid`` and bind the two."""
        self.call("ACTIVATE", b.ActivateBuffer(handle=handle, asid=asid), note=f"ASID {asid}")

    def deactivate(self, handle: int) -> None:
        """DEACTIVATE: unbind the guest from its ASID."""
        self.call("DEACTIVATE", b.HandleBuffer(handle=handle))

    def decommission(self, handle: int) -> None:
        """DECOMMISSION: erase the guest's context and keys."""
        self.call("DECOMMISSION", b.HandleBuffer(handle=handle))

    def guest_status(self, handle: int) -> GuestInfo:
        """GUEST_STATUS; an unknown handle answers state UNINIT, not an error."""
        answer = self._answer("GUEST_STATUS", b.GuestStatusBuffer(handle=handle))
        return GuestInfo(handle, Policy(answer.policy), answer.asid, GuestState(answer.state))

    # -- launch

    def launch_start(
        self,
        policy: int,
        godh: SevCertificate | bytes | None = None,
        session: Session | bytes | None = None,
        *,
        handle: int = 0,
    ) -> int:
        """LAUNCH_START: a new guest; its handle. Without ``godh`` no session; ``handle`` shares that guest's key."""
        scratch = self._fresh()
        buffer = b.LaunchStartBuffer(handle=handle, policy=int(policy))
        if (godh is None) != (session is None):
            raise InputError("LAUNCH_START", "GODH certificate and session, or neither", "one of the two")
        if godh is not None and session is not None:
            cert, blob = _bytes(godh), _bytes(session)
            buffer.dh_cert_paddr, buffer.dh_cert_len = scratch.place(cert), len(cert)
            buffer.session_paddr, buffer.session_len = scratch.place(blob), len(blob)
        return self._answer("LAUNCH_START", buffer, scratch, note=f"policy {Policy(policy)}").handle

    def launch_update_data(self, handle: int, paddr: int, length: int) -> None:
        """LAUNCH_UPDATE_DATA: measure ``length`` bytes at ``paddr`` and encrypt them in place."""
        buffer = b.LaunchUpdateBuffer(handle=handle, paddr=paddr, length=length)
        self.call("LAUNCH_UPDATE_DATA", buffer, note=f"{length} bytes at 0x{paddr:X}")

    def launch_update_vmsa(self, handle: int, paddr: int, length: int = 4096) -> None:
        """LAUNCH_UPDATE_VMSA: measure a vCPU's register page, tag it, encrypt it in place."""
        buffer = b.LaunchUpdateBuffer(handle=handle, paddr=paddr, length=length)
        self.call("LAUNCH_UPDATE_VMSA", buffer, note=f"page at 0x{paddr:X}")

    def launch_measure(self, handle: int) -> MeasurementBlob:
        """LAUNCH_MEASURE: measurement (32 bytes) and its nonce (16)."""
        scratch = self._fresh()
        place = scratch.place(bytes(MeasurementBlob.SIZE))
        buffer = b.LaunchMeasureBuffer(handle=handle, measure_paddr=place, measure_len=MeasurementBlob.SIZE)
        self._answer("LAUNCH_MEASURE", buffer, scratch)
        return MeasurementBlob.parse(self.machine.dram.read(place, MeasurementBlob.SIZE))

    def launch_secret(self, handle: int, header: PacketHeader | bytes, payload: bytes, guest_paddr: int) -> None:
        """LAUNCH_SECRET: open the owner's packet and write the secret to guest memory at ``guest_paddr``."""
        scratch = self._fresh()
        head = _bytes(header)
        buffer = b.PacketBuffer(
            handle=handle,
            hdr_paddr=scratch.place(head),
            hdr_len=len(head),
            guest_paddr=guest_paddr,
            guest_len=len(payload),
            trans_paddr=scratch.place(payload),
            trans_len=len(payload),
        )
        self.call("LAUNCH_SECRET", buffer, scratch=scratch, note=f"{len(payload)} bytes to 0x{guest_paddr:X}")

    def launch_finish(self, handle: int) -> None:
        """LAUNCH_FINISH: the guest may run; the trusted channel is wiped."""
        self.call("LAUNCH_FINISH", b.HandleBuffer(handle=handle))

    def attestation(self, handle: int, mnonce: bytes) -> AttestationReport:
        """ATTESTATION: launch digest and policy with the caller's 16-byte nonce, signed by the PEK."""
        scratch = self._fresh()
        place = scratch.place(bytes(AttestationReport.SIZE))
        buffer = b.AttestationBuffer(handle=handle, paddr=place, mnonce=mnonce, length=AttestationReport.SIZE)
        self._answer("ATTESTATION", buffer, scratch)
        return AttestationReport.parse(self.machine.dram.read(place, AttestationReport.SIZE))


def _bytes(part: Any) -> bytes:
    return part.pack() if isinstance(part, Layout) else bytes(part)
