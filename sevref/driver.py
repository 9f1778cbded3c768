"""The driver: typed calls above the mailbox, as a host's kernel makes them.

Each call puts a command buffer into DRAM, rings the mailbox, decodes the answer and raises ``SevError`` unless the
status is SUCCESS. There is no other way into the firmware: what a call can do, a hypervisor can do by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sevref.certs import Chain, SevCertificate
from sevref.firmware import BY_NAME, SPEC_0_24, ApiVersion, GuestState, Profile, SecureProcessor
from sevref.firmware import buffers as b
from sevref.firmware.platform import CERT_LEN, CHAIN_LEN, ID_LEN, TMR_SIZE
from sevref.firmware.store import MEDIUM_SIZE
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
        self.machine.host_write(self.base + start, data)
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

    @property
    def refusal(self) -> SevError | None:
        """Why the last command was refused, in words (None after SUCCESS); a model's window, no firmware has it."""
        return self._firmware.refusal

    def call(self, name: str, buffer: B | None = None, *, scratch: Scratch | None = None, note: str = "") -> B | None:
        """One command by name: place ``buffer``, ring, raise ``SevError`` on refusal, return the buffer afterwards."""
        row = BY_NAME[name]
        scratch = scratch or self._fresh()
        address = 0 if buffer is None else scratch.place(buffer.pack())
        status = self.mailbox(row.id, address)
        self.log.append(Exchange("hypervisor", "AMD-SP", name, status, note))
        if status is not Status.SUCCESS:
            raise self.refusal or SevError(status, status.meaning, name)
        return None if buffer is None else type(buffer).parse(self.machine.host_read(address, buffer.SIZE))

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

    def init_ex(self, nv_paddr: int, es: bool = False, *, tmr: int | None = None) -> None:
        """INIT_EX: as INIT, with 32 KiB of host memory (new: all FF) as persistent store instead of flash."""
        paddr = (self.default_tmr if tmr is None else tmr) if es else 0
        self.call(
            "INIT_EX",
            b.InitExBuffer(
                length=b.InitExBuffer.SIZE,
                options=int(es),
                tmr_paddr=paddr,
                tmr_length=TMR_SIZE if es else 0,
                nv_paddr=nv_paddr,
                nv_length=MEDIUM_SIZE,
            ),
        )

    def platform_reset(self) -> None:
        """PLATFORM_RESET: erase the identity in flash; the next INIT makes a new, self-owned one."""
        self.call("PLATFORM_RESET")

    def pek_gen(self) -> None:
        """PEK_GEN: new OCA, PEK and PDH; an external owner is gone."""
        self.call("PEK_GEN")

    def pdh_gen(self) -> None:
        """PDH_GEN: a new PDH; sessions made for the old one fail from now on."""
        self.call("PDH_GEN")

    def nop(self) -> None:
        """NOP."""
        self.call("NOP")

    def download_firmware(self, image: bytes) -> None:
        """DOWNLOAD_FIRMWARE: from the next command on the firmware is the image's version."""
        scratch = self._fresh()
        if len(image) > SCRATCH_SIZE - 64:  # does not fit the driver's buffers: it goes below them
            paddr = self._scratch - len(image) & ~31
            self.machine.host_write(paddr, image)
        else:
            paddr = scratch.place(image)
        self.call("DOWNLOAD_FIRMWARE", b.DownloadFirmwareBuffer(fw_paddr=paddr, fw_len=len(image)), scratch=scratch)

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
        data = self.machine.host_read(certs, CHAIN_LEN)
        pek, oca, cek = (SevCertificate.parse(data[i : i + CERT_LEN]) for i in range(0, CHAIN_LEN, CERT_LEN))
        return Chain(pdh=SevCertificate.parse(self.machine.host_read(pdh, CERT_LEN)), pek=pek, oca=oca, cek=cek)

    def get_id(self) -> bytes:
        """GET_ID: the chip's id, 64 bytes, under which AMD's service certifies its CEK."""
        scratch = self._fresh()
        place = scratch.place(bytes(ID_LEN))
        self._answer("GET_ID", b.GetIdBuffer(id_paddr=place, id_len=ID_LEN), scratch)
        return self.machine.host_read(place, ID_LEN)

    def pek_csr(self) -> SevCertificate:
        """PEK_CSR: the PEK certificate without signatures, for the owner to sign."""
        scratch = self._fresh()
        place = scratch.place(bytes(CERT_LEN))
        self._answer("PEK_CSR", b.PekCsrBuffer(csr_paddr=place, csr_len=CERT_LEN), scratch)
        return SevCertificate.parse(self.machine.host_read(place, CERT_LEN))

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

    def activate_ex(self, handle: int, asid: int, apic_ids: Sequence[int]) -> None:
        """ACTIVATE_EX: as ACTIVATE, on the core complexes of the listed APIC ids alone; may be repeated to add some."""
        scratch = self._fresh()
        ids = scratch.place(b"".join(apic_id.to_bytes(4, "little") for apic_id in apic_ids))
        buffer = b.ActivateExBuffer(
            length=b.ActivateExBuffer.SIZE, handle=handle, asid=asid, numids=len(apic_ids), ids_paddr=ids
        )
        self.call("ACTIVATE_EX", buffer, scratch=scratch, note=f"ASID {asid}")

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
        return MeasurementBlob.parse(self.machine.host_read(place, MeasurementBlob.SIZE))

    def launch_secret(self, handle: int, header: PacketHeader | bytes, payload: bytes, guest_paddr: int) -> None:
        """LAUNCH_SECRET: open the owner's packet and write the secret to guest memory at ``guest_paddr``."""
        self._packet("LAUNCH_SECRET", handle, header, payload, guest_paddr)

    def launch_finish(self, handle: int) -> None:
        """LAUNCH_FINISH: the guest may run; the trusted channel is wiped."""
        self.call("LAUNCH_FINISH", b.HandleBuffer(handle=handle))

    def attestation(self, handle: int, mnonce: bytes) -> AttestationReport:
        """ATTESTATION: launch digest and policy with the caller's 16-byte nonce, signed by the PEK."""
        scratch = self._fresh()
        place = scratch.place(bytes(AttestationReport.SIZE))
        buffer = b.AttestationBuffer(handle=handle, paddr=place, mnonce=mnonce, length=AttestationReport.SIZE)
        self._answer("ATTESTATION", buffer, scratch)
        return AttestationReport.parse(self.machine.host_read(place, AttestationReport.SIZE))

    # -- migration and snapshots

    def send_start(self, handle: int, receiver: Chain) -> tuple[Policy, Session]:
        """SEND_START to the platform of ``receiver``: the guest's policy, and the session for RECEIVE_START.

        Certificates that the chain lacks are passed as absent; which ones are needed the guest's policy decides."""
        scratch = self._fresh()
        place = scratch.place(bytes(Session.SIZE))
        buffer = b.SendStartBuffer(handle=handle, session_paddr=place, session_len=Session.SIZE)
        if receiver.pdh is not None:
            buffer.pdh_cert_paddr, buffer.pdh_cert_len = scratch.place(receiver.pdh.pack()), CERT_LEN
        if receiver.pek is not None and receiver.oca is not None and receiver.cek is not None:
            platform = receiver.pek.pack() + receiver.oca.pack() + receiver.cek.pack()
            buffer.plat_certs_paddr, buffer.plat_certs_len = scratch.place(platform), len(platform)
        if receiver.ask is not None and receiver.ark is not None:
            amd = receiver.ask.pack() + receiver.ark.pack()
            buffer.amd_certs_paddr, buffer.amd_certs_len = scratch.place(amd), len(amd)
        answer = self._answer("SEND_START", buffer, scratch)
        return Policy(answer.policy), Session.parse(self.machine.host_read(place, Session.SIZE))

    def send_update_data(self, handle: int, guest_paddr: int, length: int) -> tuple[PacketHeader, bytes]:
        """SEND_UPDATE_DATA: guest memory as a packet, header and ciphertext."""
        return self._send_update("SEND_UPDATE_DATA", handle, guest_paddr, length)

    def send_update_vmsa(self, handle: int, guest_paddr: int, length: int = 4096) -> tuple[PacketHeader, bytes]:
        """SEND_UPDATE_VMSA: a vCPU's register page as a packet."""
        return self._send_update("SEND_UPDATE_VMSA", handle, guest_paddr, length)

    def _send_update(self, name: str, handle: int, guest_paddr: int, length: int) -> tuple[PacketHeader, bytes]:
        scratch = self._fresh()
        header, data = scratch.place(bytes(PacketHeader.SIZE)), scratch.place(bytes(length))
        buffer = b.PacketBuffer(
            handle=handle,
            hdr_paddr=header,
            hdr_len=PacketHeader.SIZE,
            guest_paddr=guest_paddr,
            guest_len=length,
            trans_paddr=data,
            trans_len=length,
        )
        self._answer(name, buffer, scratch, note=f"{length} bytes at 0x{guest_paddr:X}")
        read = self.machine.host_read
        return PacketHeader.parse(read(header, PacketHeader.SIZE)), read(data, length)

    def send_finish(self, handle: int) -> None:
        """SEND_FINISH: the guest is SENT; it can only be deactivated and decommissioned."""
        self.call("SEND_FINISH", b.HandleBuffer(handle=handle))

    def send_cancel(self, handle: int) -> None:
        """SEND_CANCEL: the guest is RUNNING again."""
        self.call("SEND_CANCEL", b.HandleBuffer(handle=handle))

    def receive_start(
        self, policy: int, sender_pdh: SevCertificate | bytes, session: Session | bytes, *, handle: int = 0
    ) -> int:
        """RECEIVE_START: a new guest under the sender's ``policy``; its handle. ``handle`` shares that guest's key."""
        scratch = self._fresh()
        cert, blob = _bytes(sender_pdh), _bytes(session)
        buffer = b.ReceiveStartBuffer(
            handle=handle,
            policy=int(policy),
            pdh_cert_paddr=scratch.place(cert),
            pdh_cert_len=len(cert),
            session_paddr=scratch.place(blob),
            session_len=len(blob),
        )
        return self._answer("RECEIVE_START", buffer, scratch, note=f"policy {Policy(policy)}").handle

    def receive_update_data(self, handle: int, header: PacketHeader | bytes, data: bytes, guest_paddr: int) -> None:
        """RECEIVE_UPDATE_DATA: open a packet and write it to guest memory."""
        self._packet("RECEIVE_UPDATE_DATA", handle, header, data, guest_paddr)

    def receive_update_vmsa(self, handle: int, header: PacketHeader | bytes, data: bytes, guest_paddr: int) -> None:
        """RECEIVE_UPDATE_VMSA: open the packet of a register page and give the page a checksum slot here."""
        self._packet("RECEIVE_UPDATE_VMSA", handle, header, data, guest_paddr)

    def receive_finish(self, handle: int) -> None:
        """RECEIVE_FINISH: the received guest may run."""
        self.call("RECEIVE_FINISH", b.HandleBuffer(handle=handle))

    def _packet(self, name: str, handle: int, header: PacketHeader | bytes, data: bytes, guest_paddr: int) -> None:
        scratch = self._fresh()
        head = _bytes(header)
        buffer = b.PacketBuffer(
            handle=handle,
            hdr_paddr=scratch.place(head),
            hdr_len=len(head),
            guest_paddr=guest_paddr,
            guest_len=len(data),
            trans_paddr=scratch.place(data),
            trans_len=len(data),
        )
        self.call(name, buffer, scratch=scratch, note=f"{len(data)} bytes to 0x{guest_paddr:X}")

    # -- debugging, copying, swapping

    def dbg_decrypt(self, handle: int, src_paddr: int, dst_paddr: int, length: int) -> None:
        """DBG_DECRYPT: plaintext of guest memory to host memory, if the policy allows debugging."""
        self._debug("DBG_DECRYPT", handle, src_paddr, dst_paddr, length)

    def dbg_encrypt(self, handle: int, src_paddr: int, dst_paddr: int, length: int) -> None:
        """DBG_ENCRYPT: host memory into guest memory, if the policy allows debugging."""
        self._debug("DBG_ENCRYPT", handle, src_paddr, dst_paddr, length)

    def _debug(self, name: str, handle: int, src_paddr: int, dst_paddr: int, length: int) -> None:
        self.call(name, b.DebugBuffer(handle=handle, src_paddr=src_paddr, dst_paddr=dst_paddr, length=length))

    def copy(self, handle: int, src_paddr: int, dst_paddr: int, length: int) -> None:
        """COPY: move guest pages to another physical address; only the firmware can, the key depends on the address."""
        self.call("COPY", b.CopyBuffer(handle=handle, length=length, src_paddr=src_paddr, dst_paddr=dst_paddr))

    def swap_out(self, handle: int, src_paddr: int, dst_paddr: int, *, flags: int = 0, software_data: int = 0) -> bytes:
        """SWAP_OUT: the page encrypted for storage to ``dst_paddr``; its 64-byte metadata entry."""
        scratch = self._fresh()
        entry = self._aligned_entry(scratch, bytes(64))
        buffer = b.SwapOutBuffer(
            handle=handle,
            flags=flags,
            src_paddr=src_paddr,
            dst_paddr=dst_paddr,
            mdata_paddr=entry,
            software_data=software_data,
        )
        self._answer("SWAP_OUT", buffer, scratch)
        return self.machine.host_read(entry, 64)

    def swap_in(self, handle: int, src_paddr: int, dst_paddr: int, entry: bytes, *, flags: int = 0) -> None:
        """SWAP_IN: a swapped-out page, with its metadata entry, back into guest memory."""
        scratch = self._fresh()
        buffer = b.SwapInBuffer(
            handle=handle,
            flags=flags,
            src_paddr=src_paddr,
            dst_paddr=dst_paddr,
            mdata_paddr=self._aligned_entry(scratch, entry),
        )
        self.call("SWAP_IN", buffer, scratch=scratch)

    @staticmethod
    def _aligned_entry(scratch: Scratch, entry: bytes) -> int:
        """Place a metadata entry at a multiple of 64."""
        padding = -(scratch.base + scratch.used) % 64
        return scratch.place(bytes(padding) + entry) + padding


def _bytes(part: Any) -> bytes:
    return part.pack() if isinstance(part, Layout) else bytes(part)
