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
    """One message between two parties, for logs and sequence diagrams.

    ``status`` is the answer's status, None for a message that has none; ``note`` is a remark for people."""

    source: str
    target: str
    message: str
    status: Status | None = None
    note: str = ""


@dataclass(frozen=True)
class GuestInfo:
    """Answer of GUEST_STATUS (SEV API 55766, "GUEST_STATUS").

    ``handle`` is 1 to 1024, ``asid`` 0 while the guest is not bound. ``state`` UNINIT: no guest has this handle."""

    handle: int
    policy: Policy
    asid: int
    state: GuestState


@dataclass
class Scratch:
    """Bump allocator over the driver's own piece of DRAM, for the length of one call.

    ``base`` is a system physical address, ``size`` and ``used`` are in bytes."""

    machine: Machine
    base: int
    size: int
    used: int = field(default=0)

    def place(self, data: bytes) -> int:
        """Copy ``data`` into the scratch area; returns its system physical address, 16-byte aligned.

        ``InputError`` if the area (64 KiB for a call) has no room left."""
        start = self.used
        if start + len(data) > self.size:
            raise InputError("driver buffer", f"at most {self.size - start} bytes", f"{len(data)} bytes")
        self.used = start + len(data) + 15 & ~15
        self.machine.host_write(self.base + start, data)
        return self.base + start


class Platform:
    """A machine with its AMD-SP and a driver: one typed call per command of SEV API 55766.

    ``version`` (API major, API minor, build) overrides what the profile's firmware says it is. ``log`` records every
    command. Every ``paddr`` is a system physical address, every length is in bytes; a handle is 1 to 1024. The driver
    keeps the last 64 KiB of the first DRAM region (below TSEG, if there is one) for its buffers.

    A call raises ``SevError`` with the firmware's status unless that is SUCCESS; the statuses that the caller's
    arguments and the state can lead to are named at each call. The driver's own buffers pass the firmware's address
    checks as long as no ``tmr`` covers them.

        >>> from sevref import Machine, Platform
        >>> platform = Platform(Machine(seed=b"docs"))
        >>> platform.init()
        >>> platform.platform_status().api_minor, platform.platform_status().build
        (24, 15)
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
        """Ring the mailbox with a command id and the system physical ``address`` of its buffer; returns the status.

        Nothing is raised for a refusal (``refusal`` has the reason); an unknown id is INVALID_COMMAND.
        ``NotBuiltError`` for a command that this version of sevref does not implement."""
        return self._firmware.command(command_id, address)

    @property
    def refusal(self) -> SevError | None:
        """Why the last command was refused, in words (None after SUCCESS): a model's window, no firmware has it."""
        return self._firmware.refusal

    def call(self, name: str, buffer: B | None = None, *, scratch: Scratch | None = None, note: str = "") -> B | None:
        """Issue one command by its name: place ``buffer``, ring, and return the buffer as it is afterwards.

        ``SevError`` with the command's status unless that is SUCCESS. ``scratch`` is where the buffer goes, with the
        data that it points to; ``note`` goes into the log. ``KeyError`` for an unknown name."""
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
        """INIT (0x01): UNINIT to INIT; derives the CEK, takes OCA, PEK and PDH from flash or makes them.

        With ``es`` SEV-ES guests are possible, and the 1 MiB at ``tmr`` (system physical, 1 MiB aligned; default
        ``default_tmr``) become the firmware's trusted memory region. Every ASID needs WBINVD and ``df_flush``
        afterwards. ``SevError`` INVALID_PLATFORM_STATE (not UNINIT), HWERROR_PLATFORM (memory encryption off,
        impossible random key), SECURE_DATA_INVALID (flash was not this chip's; it is erased: try again),
        INVALID_ADDRESS (``tmr``; outside DRAM INVALID_CONFIG under GENOA_1_55_25). SEV API 55766, "INIT"."""
        paddr = (self.default_tmr if tmr is None else tmr) if es else 0
        self.call("INIT", b.InitBuffer(options=int(es), tmr_paddr=paddr, tmr_length=TMR_SIZE if es else 0))

    def init_ex(self, nv_paddr: int, es: bool = False, *, tmr: int | None = None) -> None:
        """INIT_EX (0x0D): as INIT, with 32 KiB of host memory as persistent store instead of flash.

        ``nv_paddr`` is 4096-byte aligned; new memory holds all FF, and 0 means flash. ``es`` and ``tmr`` as in
        ``init``; the region must not overlap the store. ``SevError`` INVALID_PLATFORM_STATE, HWERROR_PLATFORM,
        SECURE_DATA_INVALID (the store did not authenticate; it is now all FF: try again), INVALID_ADDRESS (outside DRAM
        INVALID_CONFIG under GENOA_1_55_25). SEV API 55766, "INIT_EX"."""
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
        """PLATFORM_RESET (0x03, Linux: FACTORY_RESET): erase the identity in flash; the next INIT makes another.

        A store in host memory (``init_ex``) is the host's to erase. ``SevError`` INVALID_PLATFORM_STATE (not UNINIT).
        SEV API 55766, "PLATFORM_RESET"."""
        self.call("PLATFORM_RESET")

    def pek_gen(self) -> None:
        """PEK_GEN (0x05): new self-owned OCA, new PEK, new PDH; an external owner is gone.

        ``SevError`` INVALID_PLATFORM_STATE (not INIT: no guest may exist), HWERROR_PLATFORM (impossible random key).
        SEV API 55766, "PEK_GEN"."""
        self.call("PEK_GEN")

    def pdh_gen(self) -> None:
        """PDH_GEN (0x09): a new PDH; sessions made for the old one fail from now on, open channels go on.

        ``SevError`` INVALID_PLATFORM_STATE (UNINIT), HWERROR_PLATFORM (impossible random key). SEV API 55766,
        "PDH_GEN"."""
        self.call("PDH_GEN")

    def nop(self) -> None:
        """NOP (0x0E): nothing, in every platform state (SEV API 55766, "NOP")."""
        self.call("NOP")

    def download_firmware(self, image: bytes) -> None:
        """DOWNLOAD_FIRMWARE (0x0B): from the next command on the firmware says it is the image's version.

        sevref runs no image: API version and build come from its first 256 bytes, and no signature is verified unless
        the model was given a verifier. ``SevError`` INVALID_PLATFORM_STATE (not UNINIT), INVALID_LENGTH (not 256 to
        131072 bytes), BAD_SIGNATURE (that verifier refuses). SEV API 55766, "DOWNLOAD_FIRMWARE"."""
        scratch = self._fresh()
        if len(image) > SCRATCH_SIZE - 64:  # does not fit the driver's buffers: it goes below them
            paddr = self._scratch - len(image) & ~31
            self.machine.host_write(paddr, image)
        else:
            paddr = scratch.place(image)
        self.call("DOWNLOAD_FIRMWARE", b.DownloadFirmwareBuffer(fw_paddr=paddr, fw_len=len(image)), scratch=scratch)

    def shutdown(self) -> None:
        """SHUTDOWN (0x02): back to UNINIT from every state; every guest is gone, the stored identity stays.

        SEV API 55766, "SHUTDOWN"."""
        self.call("SHUTDOWN")

    def platform_status(self) -> b.PlatformStatusBuffer:
        """PLATFORM_STATUS (0x04): API version, build, state, owner, configuration, guest count; in every state.

        SEV API 55766, "PLATFORM_STATUS"."""
        return self._answer("PLATFORM_STATUS", b.PlatformStatusBuffer())

    def pdh_cert_export(self) -> Chain:
        """PDH_CERT_EXPORT (0x08): PDH, PEK, OCA and CEK, 2084 bytes each, as a chain without ASK and ARK.

        The CEK is not signed: AMD's service signs it for the chip's id (``get_id``). ``SevError``
        INVALID_PLATFORM_STATE (UNINIT). SEV API 55766, "PDH_CERT_EXPORT"."""
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
        """GET_ID (0x0C): the chip's id, 64 bytes, under which AMD's service certifies its CEK; in every state.

        X || Y of a point on secp256k1, 32 bytes each, big-endian. SEV API 55766, "GET_ID"."""
        scratch = self._fresh()
        place = scratch.place(bytes(ID_LEN))
        self._answer("GET_ID", b.GetIdBuffer(id_paddr=place, id_len=ID_LEN), scratch)
        return self.machine.host_read(place, ID_LEN)

    def pek_csr(self) -> SevCertificate:
        """PEK_CSR (0x06): the PEK certificate with both signature slots empty, for the owner to sign.

        ``SevError`` INVALID_PLATFORM_STATE (UNINIT). SEV API 55766, "PEK_CSR"."""
        scratch = self._fresh()
        place = scratch.place(bytes(CERT_LEN))
        self._answer("PEK_CSR", b.PekCsrBuffer(csr_paddr=place, csr_len=CERT_LEN), scratch)
        return SevCertificate.parse(self.machine.host_read(place, CERT_LEN))

    def pek_cert_import(self, pek: SevCertificate, oca: SevCertificate) -> None:
        """PEK_CERT_IMPORT (0x07): take the owner's ``oca`` and the ``pek`` that it signed; the PDH is made anew.

        The CEK's signature is carried over. ``SevError`` INVALID_PLATFORM_STATE (not INIT), ALREADY_OWNED,
        INVALID_CERTIFICATE (also: not this platform's PEK), BAD_SIGNATURE, UNSUPPORTED (a key that cannot sign),
        INVALID_LENGTH (an RSA key below 8 bits), HWERROR_PLATFORM (impossible random key). SEV API 55766,
        "PEK_CERT_IMPORT"."""
        scratch = self._fresh()
        buffer = b.PekCertImportBuffer(
            pek_cert_paddr=scratch.place(pek.pack()),
            pek_cert_len=CERT_LEN,
            oca_cert_paddr=scratch.place(oca.pack()),
            oca_cert_len=CERT_LEN,
        )
        self.call("PEK_CERT_IMPORT", buffer, scratch=scratch)

    def df_flush(self) -> None:
        """DF_FLUSH (0x0A): dirty ASIDs become clean on every CCX whose cores have all executed WBINVD.

        ``SevError`` WBINVD_REQUIRED (some core has not; the other CCXs are clean all the same), INVALID_PLATFORM_STATE
        (UNINIT, except under GENOA_1_55_25). SEV API 55766, "DF_FLUSH"."""
        self.call("DF_FLUSH")

    # -- guests

    def activate(self, handle: int, asid: int) -> None:
        """ACTIVATE (0x21): bind the guest to ``asid`` and load its key into that key slot, on every CCX.

        ASIDs below the machine's ``min_sev_asid`` are for SEV-ES guests, the others for plain SEV. ``SevError``
        INVALID_PLATFORM_STATE (not WORKING), INVALID_GUEST (unknown handle), INVALID_ASID (0, too large, wrong half),
        ASID_OWNED, ACTIVE (already bound), INVALID_GUEST_STATE (SENT), DFFLUSH_REQUIRED (the ASID is dirty). SEV API
        55766, "ACTIVATE"."""
        self.call("ACTIVATE", b.ActivateBuffer(handle=handle, asid=asid), note=f"ASID {asid}")

    def activate_ex(self, handle: int, asid: int, apic_ids: Sequence[int]) -> None:
        """ACTIVATE_EX (0x25): as ACTIVATE, on the CCXs of the cores in ``apic_ids`` alone; repeat it to add some.

        ``SevError`` INVALID_PLATFORM_STATE (not WORKING), INVALID_GUEST (unknown handle), INVALID_ASID, UNSUPPORTED (a
        machine without ``activate_ex``), INVALID_PARAM (not 1 to 1024 ids, or one above 511), INVALID_CONFIG (no core
        has that id), INVALID_GUEST_STATE (SENT), DFFLUSH_REQUIRED, ASID_OWNED, ACTIVE (bound to another ASID).
        ``InputError`` for an id that is not 32 bits. SEV API 55766, "ACTIVATE_EX"."""
        if bad := [apic_id for apic_id in apic_ids if not 0 <= apic_id < 1 << 32]:
            raise InputError("APIC id", "0 to 0xFFFFFFFF", hex(bad[0]))
        scratch = self._fresh()
        ids = scratch.place(b"".join(apic_id.to_bytes(4, "little") for apic_id in apic_ids))
        buffer = b.ActivateExBuffer(
            length=b.ActivateExBuffer.SIZE, handle=handle, asid=asid, numids=len(apic_ids), ids_paddr=ids
        )
        self.call("ACTIVATE_EX", buffer, scratch=scratch, note=f"ASID {asid}")

    def deactivate(self, handle: int) -> None:
        """DEACTIVATE (0x22): unbind the guest from its ASID, which is dirty if the guest could run.

        ``SevError`` INVALID_PLATFORM_STATE (not WORKING), INVALID_GUEST (unknown handle), INACTIVE (not bound). SEV API
        55766, "DEACTIVATE"."""
        self.call("DEACTIVATE", b.HandleBuffer(handle=handle))

    def decommission(self, handle: int) -> None:
        """DECOMMISSION (0x20): erase the guest's context and keys; the platform is INIT again after the last guest.

        ``SevError`` INVALID_PLATFORM_STATE (not WORKING), INVALID_GUEST (unknown handle), ACTIVE (still bound:
        ``deactivate`` first). SEV API 55766, "DECOMMISSION"."""
        self.call("DECOMMISSION", b.HandleBuffer(handle=handle))

    def guest_status(self, handle: int) -> GuestInfo:
        """GUEST_STATUS (0x23): policy, ASID and state of a guest; an unknown handle answers state UNINIT, no error.

        ``SevError`` INVALID_PLATFORM_STATE (UNINIT). SEV API 55766, "GUEST_STATUS"."""
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
        """LAUNCH_START (0x30): make a guest in state LUPDATE and return its handle.

        ``policy`` is 32 bits. ``godh`` (the owner's certificate, 2084 bytes) and ``session`` (128 bytes) come together,
        else ``InputError``; without them TEK and TIK are zero and nobody checks the policy. ``handle`` 0: a new memory
        key, else the guest whose key is shared. ``SevError`` INVALID_PLATFORM_STATE (UNINIT), INVALID_LENGTH (bytes of
        another size), INVALID_CERTIFICATE (``godh``), BAD_MEASUREMENT (WRAP_MAC, POLICY_MAC), POLICY_FAILURE (API
        minimum, bits 15:6, sharing), INVALID_GUEST (``handle``), RESOURCE_LIMIT (1024 guests), UNSUPPORTED (ES on a
        platform without). SEV API 55766, "LAUNCH_START"."""
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
        """LAUNCH_UPDATE_DATA (0x31): measure ``length`` bytes at ``paddr`` and encrypt them there with the guest's key.

        ``paddr`` is system physical; both are multiples of 16. ``SevError`` INVALID_PLATFORM_STATE (not WORKING),
        INVALID_GUEST, INVALID_GUEST_STATE (not LUPDATE), INACTIVE (no ASID), INVALID_ADDRESS (outside DRAM
        INVALID_CONFIG under GENOA_1_55_25), INVALID_LENGTH. SEV API 55766, "LAUNCH_UPDATE_DATA"."""
        buffer = b.LaunchUpdateBuffer(handle=handle, paddr=paddr, length=length)
        self.call("LAUNCH_UPDATE_DATA", buffer, note=f"{length} bytes at 0x{paddr:X}")

    def launch_update_vmsa(self, handle: int, paddr: int, length: int = 4096) -> None:
        """LAUNCH_UPDATE_VMSA (0x32): measure a vCPU's register page, tag it and encrypt it in place.

        ``paddr`` is system physical and a multiple of 16, ``length`` 4096. Bytes 0x380 to 0x38F change after the
        measurement: they name the page's checksum slot. ``SevError`` INVALID_LENGTH, INVALID_PLATFORM_STATE (not
        WORKING), INVALID_GUEST, INVALID_GUEST_STATE (not LUPDATE), UNSUPPORTED (no SEV-ES guest), INACTIVE (no ASID),
        INVALID_ADDRESS (outside DRAM INVALID_CONFIG under GENOA_1_55_25), RESOURCE_LIMIT (no checksum slot is free).
        SEV API 55766, "LAUNCH_UPDATE_VMSA"."""
        buffer = b.LaunchUpdateBuffer(handle=handle, paddr=paddr, length=length)
        self.call("LAUNCH_UPDATE_VMSA", buffer, note=f"page at 0x{paddr:X}")

    def launch_measure(self, handle: int) -> MeasurementBlob:
        """LAUNCH_MEASURE (0x33): launch measurement (32 bytes) and its nonce (16 bytes); the guest is in LSECRET then.

        ``SevError`` INVALID_PLATFORM_STATE (not WORKING), INVALID_GUEST (unknown handle), INVALID_GUEST_STATE (not
        LUPDATE). SEV API 55766, "LAUNCH_MEASURE"."""
        scratch = self._fresh()
        place = scratch.place(bytes(MeasurementBlob.SIZE))
        buffer = b.LaunchMeasureBuffer(handle=handle, measure_paddr=place, measure_len=MeasurementBlob.SIZE)
        self._answer("LAUNCH_MEASURE", buffer, scratch)
        return MeasurementBlob.parse(self.machine.host_read(place, MeasurementBlob.SIZE))

    def launch_secret(self, handle: int, header: PacketHeader | bytes, payload: bytes, guest_paddr: int) -> None:
        """LAUNCH_SECRET (0x34, Linux: LAUNCH_UPDATE_SECRET): open the owner's packet, write the secret to guest memory.

        ``header`` is 52 bytes; ``payload`` is a multiple of 16, at most 16384 bytes (20480 under GENOA_1_55_25).
        ``guest_paddr`` is system physical, 16-byte aligned, and authenticated by nothing. ``SevError``
        INVALID_PLATFORM_STATE (not WORKING), INVALID_GUEST, INVALID_ADDRESS (outside DRAM INVALID_CONFIG under
        GENOA_1_55_25), INVALID_LENGTH, INVALID_GUEST_STATE (not LSECRET), INACTIVE (no ASID), BAD_MEASUREMENT (the
        packet's MAC), UNSUPPORTED (compressed). SEV API 55766, "LAUNCH_SECRET"."""
        self._packet("LAUNCH_SECRET", handle, header, payload, guest_paddr)

    def launch_finish(self, handle: int) -> None:
        """LAUNCH_FINISH (0x35): the guest is RUNNING; TEK, TIK, master secret, nonce and measurement are wiped.

        ``SevError`` INVALID_PLATFORM_STATE (not WORKING), INVALID_GUEST (unknown handle), INVALID_GUEST_STATE (not
        LSECRET). SEV API 55766, "LAUNCH_FINISH"."""
        self.call("LAUNCH_FINISH", b.HandleBuffer(handle=handle))

    def attestation(self, handle: int, mnonce: bytes) -> AttestationReport:
        """ATTESTATION (0x36): launch digest and policy with the caller's nonce of 16 bytes, signed by the PEK.

        The digest of a guest that was received is 32 zero bytes. ``InputError`` for a nonce of another size.
        ``SevError`` INVALID_PLATFORM_STATE (not WORKING), INVALID_GUEST (unknown handle), INVALID_GUEST_STATE (LUPDATE
        or RUPDATE). SEV API 55766, "ATTESTATION"."""
        scratch = self._fresh()
        place = scratch.place(bytes(AttestationReport.SIZE))
        buffer = b.AttestationBuffer(handle=handle, paddr=place, mnonce=mnonce, length=AttestationReport.SIZE)
        self._answer("ATTESTATION", buffer, scratch)
        return AttestationReport.parse(self.machine.host_read(place, AttestationReport.SIZE))

    # -- migration and snapshots

    def send_start(self, handle: int, receiver: Chain) -> tuple[Policy, Session]:
        """SEND_START (0x40): open a channel to the platform of ``receiver``; policy and session for RECEIVE_START.

        The guest is in SUPDATE then. Its policy decides what is read: the PDH always; PEK, OCA and CEK with SEV or
        DOMAIN; ASK and ARK with SEV. A certificate that is needed and not in the chain is INVALID_LENGTH. ``SevError``
        INVALID_PLATFORM_STATE (not WORKING), INVALID_GUEST, INVALID_LENGTH, INVALID_GUEST_STATE (not RUNNING),
        POLICY_FAILURE (NOSEND, the receiver's API version, another owner's domain), INVALID_CERTIFICATE, BAD_SIGNATURE,
        UNSUPPORTED (a key that cannot sign). SEV API 55766, "SEND_START"."""
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
        """SEND_UPDATE_DATA (0x41): guest memory as a packet, header (52 bytes) and ciphertext (``length`` bytes).

        ``guest_paddr`` is system physical, 16-byte aligned; ``length`` is a multiple of 16, at most 16384 (20480 under
        GENOA_1_55_25). ``SevError`` INVALID_PLATFORM_STATE (not WORKING), INVALID_GUEST, INVALID_GUEST_STATE (not
        SUPDATE), INACTIVE (no ASID), INVALID_LENGTH, INVALID_ADDRESS (outside DRAM INVALID_CONFIG under GENOA_1_55_25).
        SEV API 55766, "SEND_UPDATE_DATA"."""
        return self._send_update("SEND_UPDATE_DATA", handle, guest_paddr, length)

    def send_update_vmsa(self, handle: int, guest_paddr: int, length: int = 4096) -> tuple[PacketHeader, bytes]:
        """SEND_UPDATE_VMSA (0x42): a vCPU's register page as a packet, header (52 bytes) and ciphertext.

        As ``send_update_data``; the range starts with a VMSA of this guest whose checksum is intact. ``SevError``
        INVALID_PLATFORM_STATE (not WORKING), INVALID_GUEST, INVALID_GUEST_STATE (not SUPDATE), UNSUPPORTED (no SEV-ES
        guest), INACTIVE (no ASID), INVALID_LENGTH, INVALID_ADDRESS (outside DRAM INVALID_CONFIG under GENOA_1_55_25),
        INVALID_PARAM (no such VMSA). SEV API 55766, "SEND_UPDATE_VMSA"."""
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
        """SEND_FINISH (0x43): close the channel; the guest is SENT and can be neither sent nor activated again.

        It keeps its ASID, and the processor can execute it, until ``deactivate``; debugging, COPY and swapping stay
        possible until then too. ``SevError`` INVALID_PLATFORM_STATE (not WORKING), INVALID_GUEST (unknown handle),
        INVALID_GUEST_STATE (not SUPDATE). SEV API 55766, "SEND_FINISH"."""
        self.call("SEND_FINISH", b.HandleBuffer(handle=handle))

    def send_cancel(self, handle: int) -> None:
        """SEND_CANCEL (0x44): close the channel; the guest is RUNNING again.

        ``SevError`` INVALID_PLATFORM_STATE (not WORKING), INVALID_GUEST (unknown handle), INVALID_GUEST_STATE (not
        SUPDATE). SEV API 55766, "SEND_CANCEL"."""
        self.call("SEND_CANCEL", b.HandleBuffer(handle=handle))

    def receive_start(
        self, policy: int, sender_pdh: SevCertificate | bytes, session: Session | bytes, *, handle: int = 0
    ) -> int:
        """RECEIVE_START (0x50): make a guest in state RUPDATE from the sender's session and return its handle.

        ``policy`` and ``session`` (128 bytes) are what SEND_START returned, ``sender_pdh`` (2084 bytes) is the PDH that
        the sender had then. ``handle`` as in ``launch_start``. ``SevError`` INVALID_PLATFORM_STATE (UNINIT),
        INVALID_LENGTH (bytes of another size), INVALID_CERTIFICATE, BAD_MEASUREMENT (WRAP_MAC, POLICY_MAC),
        POLICY_FAILURE (API minimum, bits 15:6, sharing), INVALID_GUEST (``handle``), RESOURCE_LIMIT (1024 guests),
        UNSUPPORTED (ES on a platform without). SEV API 55766, "RECEIVE_START"."""
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
        """RECEIVE_UPDATE_DATA (0x51): open a packet and write it to guest memory at ``guest_paddr``.

        ``header`` is 52 bytes, ``data`` a multiple of 16, at most 16384 (20480 under GENOA_1_55_25); ``guest_paddr`` is
        system physical, 16-byte aligned, and authenticated by nothing. ``SevError`` INVALID_PLATFORM_STATE (not
        WORKING), INVALID_GUEST, INVALID_GUEST_STATE (not RUPDATE), INACTIVE (no ASID), INVALID_LENGTH, INVALID_ADDRESS
        (outside DRAM INVALID_CONFIG under GENOA_1_55_25), UNSUPPORTED (compressed), BAD_MEASUREMENT (the packet's MAC).
        SEV API 55766, "RECEIVE_UPDATE_DATA"."""
        self._packet("RECEIVE_UPDATE_DATA", handle, header, data, guest_paddr)

    def receive_update_vmsa(self, handle: int, header: PacketHeader | bytes, data: bytes, guest_paddr: int) -> None:
        """RECEIVE_UPDATE_VMSA (0x52): open the packet of a register page, give the page a checksum slot here, write it.

        As ``receive_update_data``, with at least 4096 bytes. ``SevError`` INVALID_PLATFORM_STATE (not WORKING),
        INVALID_GUEST, INVALID_GUEST_STATE (not RUPDATE), UNSUPPORTED (no SEV-ES guest, or compressed), INACTIVE (no
        ASID), INVALID_LENGTH, INVALID_ADDRESS (outside DRAM INVALID_CONFIG under GENOA_1_55_25), BAD_MEASUREMENT (the
        packet's MAC), RESOURCE_LIMIT (no checksum slot). SEV API 55766, "RECEIVE_UPDATE_VMSA"."""
        self._packet("RECEIVE_UPDATE_VMSA", handle, header, data, guest_paddr)

    def receive_finish(self, handle: int) -> None:
        """RECEIVE_FINISH (0x53): the received guest is RUNNING, whether everything has come or not; channel wiped.

        ``SevError`` INVALID_PLATFORM_STATE (not WORKING), INVALID_GUEST (unknown handle), INVALID_GUEST_STATE (not
        RUPDATE). SEV API 55766, "RECEIVE_FINISH"."""
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
        """DBG_DECRYPT (0x60): guest memory at ``src_paddr`` as plaintext into host memory at ``dst_paddr``.

        Addresses are system physical; they and ``length`` are multiples of 16. ``SevError`` INVALID_PLATFORM_STATE (not
        WORKING), INVALID_ADDRESS (outside DRAM INVALID_CONFIG under GENOA_1_55_25), INVALID_LENGTH, INVALID_GUEST,
        POLICY_FAILURE (NODBG), INACTIVE (no ASID). SEV API 55766, "DBG_DECRYPT"."""
        self._debug("DBG_DECRYPT", handle, src_paddr, dst_paddr, length)

    def dbg_encrypt(self, handle: int, src_paddr: int, dst_paddr: int, length: int) -> None:
        """DBG_ENCRYPT (0x61): host memory at ``src_paddr`` into guest memory at ``dst_paddr``, with the guest's key.

        Addresses are system physical; they and ``length`` are multiples of 16. ``SevError`` INVALID_PLATFORM_STATE (not
        WORKING), INVALID_ADDRESS (outside DRAM INVALID_CONFIG under GENOA_1_55_25), INVALID_LENGTH, INVALID_GUEST,
        POLICY_FAILURE (NODBG), INACTIVE (no ASID). SEV API 55766, "DBG_ENCRYPT"."""
        self._debug("DBG_ENCRYPT", handle, src_paddr, dst_paddr, length)

    def _debug(self, name: str, handle: int, src_paddr: int, dst_paddr: int, length: int) -> None:
        self.call(name, b.DebugBuffer(handle=handle, src_paddr=src_paddr, dst_paddr=dst_paddr, length=length))

    def copy(self, handle: int, src_paddr: int, dst_paddr: int, length: int) -> None:
        """COPY (0x24): guest pages again at another address; only the firmware can, ciphertext depends on its address.

        Addresses are system physical; they and ``length`` are multiples of 4096, and no range crosses a 64 MiB
        boundary. The source stays as it is. ``SevError`` INVALID_PLATFORM_STATE (not WORKING), INVALID_GUEST, INACTIVE
        (no ASID), INVALID_LENGTH, INVALID_ADDRESS (outside DRAM INVALID_CONFIG under GENOA_1_55_25), INVALID_PARAM (the
        boundary). SEV API 55766, "COPY"."""
        self.call("COPY", b.CopyBuffer(handle=handle, length=length, src_paddr=src_paddr, dst_paddr=dst_paddr))

    def swap_out(self, handle: int, src_paddr: int, dst_paddr: int, *, flags: int = 0, software_data: int = 0) -> bytes:
        """SWAP_OUT (0x70): the guest page at ``src_paddr`` encrypted under the OEK to ``dst_paddr``; its metadata.

        Addresses are system physical. ``flags``: bit 0 makes the page 2 MiB (else 4096 bytes; both addresses aligned to
        that), bits 2:1 are its type (0 data, 2 VMSA). ``software_data`` is 64 bits of the host's; the entry is 64
        bytes. ``SevError`` INVALID_PLATFORM_STATE (not WORKING), INVALID_ADDRESS, INVALID_PARAM (page type, overlap),
        INVALID_GUEST, INACTIVE (no ASID), AEAD_OFLOW (the counter is used up). SEV API 55766, "SWAP_OUT"."""
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
        """SWAP_IN (0x71): the page at ``src_paddr``, with its ``entry``, back into guest memory at ``dst_paddr``.

        ``entry`` is the 64 bytes of SWAP_OUT, ``flags`` its flags; bit 3 says in place (both addresses equal).
        ``SevError`` INVALID_PLATFORM_STATE (not WORKING), INVALID_ADDRESS, INVALID_PARAM (flags, overlap),
        INVALID_GUEST, INACTIVE (no ASID), BAD_MEASUREMENT (page and entry do not belong together, or to this guest).
        SEV API 55766, "SWAP_IN"."""
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
