"""Platform commands: one function each, checks in order, then effects (SEV API 55766, "INIT", "PEK_GEN")."""

from __future__ import annotations

from collections.abc import Callable

from sevref.certs import SevCertificate, Usage, add_signature, validate
from sevref.firmware import buffers as b
from sevref.firmware.commands import command
from sevref.firmware.guest import VmsaPool
from sevref.firmware.identity import Identity, chip_id, without_signatures
from sevref.firmware.processor import HostBuffer, SecureProcessor, require
from sevref.firmware.profile import ApiVersion
from sevref.firmware.state import PlatformState
from sevref.firmware.store import MEDIUM_SIZE, Store
from sevref.layout import Layout, raw, u8
from sevref.machine import NONE
from sevref.status import SevError, Status

CERT_LEN = SevCertificate.SIZE
CHAIN_LEN = 3 * CERT_LEN
ID_LEN = 64
TMR_SIZE = 0x100000
MAX_IMAGE = 0x20000


@command(0x01)
def init(sp: SecureProcessor, buf: b.InitBuffer) -> None:
    """INIT (0x01): identity from flash, ASIDs dirty, with ES the TMR reserved."""
    require_initialisable(sp, buf.options, buf.reserved_04)
    initialise(sp, buf.options, lambda: reserve_tmr(sp, buf.tmr_paddr, buf.tmr_length))


@command(0x0D)
def init_ex(sp: SecureProcessor, buf: b.InitExBuffer) -> None:
    """INIT_EX (0x0D): the same with 32 KiB of host memory as persistent store, if there is an address."""
    require_initialisable(sp, buf.options, buf.reserved_14)
    require(buf.length == buf.SIZE, Status.INVALID_LENGTH, f"LENGTH must be {buf.SIZE}, found {buf.length}")  # row 5
    nv = buf.nv_paddr
    if nv:
        require(nv % 4096 == 0, Status.INVALID_ADDRESS, f"NV_PADDR 0x{nv:X} must be aligned to 4096")  # row 6
        sp.check(nv, buf.nv_length, "NV_PADDR", copies=False)  # row 7
        found = buf.nv_length
        require(found == MEDIUM_SIZE, Status.INVALID_LENGTH, f"NV_LENGTH must be {MEDIUM_SIZE}, found {found}")  # row 8
        sp.store = Store(HostBuffer(sp, nv), sp.machine.fused_store_secret())

    def reserve() -> None:
        if nv:
            sp.check(buf.tmr_paddr, buf.tmr_length, "TMR_PADDR", copies=False)  # row 13
            start, own = sp.plain(buf.tmr_paddr), sp.plain(nv)
            apart = start + TMR_SIZE <= own or own + MEDIUM_SIZE <= start
            require(
                apart, Status.INVALID_ADDRESS, f"the TMR at 0x{start:X} overlaps the NV buffer at 0x{own:X}"
            )  # row 13
        reserve_tmr(sp, buf.tmr_paddr, buf.tmr_length)

    initialise(sp, buf.options, reserve)


def require_initialisable(sp: SecureProcessor, options: int, reserved: bytes) -> None:
    """First checks of INIT and INIT_EX."""
    sp.require_platform_state()  # row 1
    require(
        sp.machine.memory_encryption, Status.HWERROR_PLATFORM, "memory encryption (SMEE, UMC) is not enabled"
    )  # row 2
    require(options & ~1 == 0, Status.INVALID_CONFIG, f"OPTIONS bits 31:1 must be 0, found 0x{options:X}")  # row 3
    require(not any(reserved), Status.INVALID_CONFIG, "reserved bytes must be 0")  # row 3


def initialise(sp: SecureProcessor, options: int, reserve: Callable[[], None]) -> None:
    """What INIT and INIT_EX share: identity, ASIDs, then the TMR (``reserve``) if OPTIONS ask for SEV-ES."""
    try:
        load_identity(sp)
        sp.asids.reset()
        if options & 1:
            reserve()
    except SevError:
        sp.clear()  # the store keeps an identity made on the way, and the ASIDs stay dirty
        raise
    sp.es = bool(options & 1)
    sp.state = PlatformState.INIT


def load_identity(sp: SecureProcessor) -> None:
    """Derive the CEK; take the identity from the store or make a new one and save it."""
    stored = sp.store.load()  # row 11: SECURE_DATA_INVALID: does not authenticate; the store was erased
    sp.cek = sp.derive_cek()
    if stored is None:
        stored = sp.issuer.fresh(sp.cek)  # row 12: HWERROR_PLATFORM: the random source gave an impossible key
        sp.store.save(stored, sp.machine.rng)
    sp.identity = stored


def reserve_tmr(sp: SecureProcessor, paddr: int, length: int) -> None:
    """Take the trusted memory region: host accesses by the firmware are refused from now on."""
    base = sp.plain(paddr)
    require(base % TMR_SIZE == 0, Status.INVALID_ADDRESS, f"TMR_PADDR 0x{paddr:X} must be aligned to 1 MiB")  # row 14
    require(length == TMR_SIZE, Status.INVALID_LENGTH, f"TMR_LENGTH must be 0x100000, found 0x{length:X}")  # row 15
    sp.check(paddr, length, "TMR_PADDR", copies=False)  # row 16
    sp.tmr = (base, base + TMR_SIZE - 1)


@command(0x02)
def shutdown(sp: SecureProcessor, _: None) -> None:
    """SHUTDOWN (0x02): everything volatile is gone."""
    sp.require_platform_state()  # row 1
    sp.machine.valid_asids.clear()
    if sp.tmr is not None and sp.pool is not None:
        for start, size in sp.profile.tmr_clear_on_shutdown:
            sp.machine.umc.write(NONE, sp.tmr[0] + start, bytes(size))
    sp.clear()


@command(0x03)
def platform_reset(sp: SecureProcessor, _: None) -> None:
    """PLATFORM_RESET (0x03): the identity in flash is gone."""
    sp.require_platform_state()  # row 1
    sp.store.erase()  # in UNINIT that is the flash; a host's NV buffer is the host's to fill with FF


@command(0x04)
def platform_status(sp: SecureProcessor, buf: b.PlatformStatusBuffer) -> None:
    """PLATFORM_STATUS (0x04): version, state, owner, configuration, number of guests."""
    sp.require_platform_state()  # row 1
    buf.api_major, buf.api_minor, buf.build = sp.version
    buf.state = sp.state
    buf.owner = int(sp.identity is not None and sp.identity.external)
    buf.config = int(sp.es)
    buf.guest_count = len(sp.guests)


@command(0x05)
def pek_gen(sp: SecureProcessor, _: None) -> None:
    """PEK_GEN (0x05): a new self-owned identity."""
    sp.require_platform_state()  # row 1
    replace_identity(sp, sp.issuer.fresh(sp.require_cek()))  # row 2


def replace_identity(sp: SecureProcessor, identity: Identity) -> None:
    """Persist a new identity, then use it: until it is stored the old one stays in force."""
    sp.store.save(identity, sp.machine.rng)
    sp.identity = identity


@command(0x06)
def pek_csr(sp: SecureProcessor, buf: b.PekCsrBuffer) -> None:
    """PEK_CSR (0x06): the PEK certificate without signatures."""
    sp.require_platform_state()  # row 1
    room, buf.csr_len = buf.csr_len, CERT_LEN
    require(room >= CERT_LEN, Status.INVALID_LENGTH, f"CSR_LEN must be at least {CERT_LEN}, found {room}")  # row 2
    sp.write(buf.csr_paddr, without_signatures(sp.require_identity().pek).pack(), "CSR_PADDR")  # row 3


@command(0x07)
def pek_cert_import(sp: SecureProcessor, buf: b.PekCertImportBuffer) -> None:
    """PEK_CERT_IMPORT (0x07): an owner's OCA and the PEK that it signed; a new PDH."""
    sp.require_platform_state()  # row 1
    current = sp.require_identity()
    require(not current.external, Status.ALREADY_OWNED, "the platform already has an external owner")  # row 2
    require(  # row 3
        buf.pek_cert_len == CERT_LEN and buf.oca_cert_len == CERT_LEN,
        Status.INVALID_LENGTH,
        f"PEK_CERT_LEN and OCA_CERT_LEN must be {CERT_LEN}, found {buf.pek_cert_len} and {buf.oca_cert_len}",
    )
    pek = SevCertificate.parse(sp.read(buf.pek_cert_paddr, CERT_LEN, "PEK_CERT_PADDR"))  # row 4
    oca = SevCertificate.parse(sp.read(buf.oca_cert_paddr, CERT_LEN, "OCA_CERT_PADDR"))  # row 4
    validate(oca, oca.signing_key())  # row 5
    validate(pek, oca.signing_key())  # row 6
    require(  # row 7
        pek.body() == current.pek.body(),
        Status.INVALID_CERTIFICATE,
        "the PEK imported is not this platform's current PEK",
    )
    endorsement = next((slot for slot in current.pek.slots if slot.usage == Usage.CEK), None)
    if endorsement is None:
        raise SevError(Status.INVALID_CERTIFICATE, "the current PEK holds no CEK signature to carry over")  # row 8
    add_signature(pek, endorsement)  # row 8: INVALID_CERTIFICATE: no free slot for the CEK's signature
    replace_identity(sp, sp.issuer.with_new_pdh(current.owned_by(oca, pek)))


@command(0x08)
def pdh_cert_export(sp: SecureProcessor, buf: b.PdhCertExportBuffer) -> None:
    """PDH_CERT_EXPORT (0x08): PDH, and PEK, OCA, CEK."""
    sp.require_platform_state()  # row 1
    if buf.pdh_cert_len < CERT_LEN or buf.certs_len < CHAIN_LEN:
        found = f"{buf.pdh_cert_len} and {buf.certs_len}"
        buf.pdh_cert_len, buf.certs_len = CERT_LEN, CHAIN_LEN
        rule = f"PDH_CERT_LEN and CERTS_LEN must be at least {CERT_LEN} and {CHAIN_LEN}, found {found}"
        raise SevError(Status.INVALID_LENGTH, rule)  # row 2
    identity = sp.require_identity()
    cek = sp.issuer.exported_cek(sp.require_cek())
    sp.write(buf.pdh_cert_paddr, identity.pdh.pack(), "PDH_CERT_PADDR")  # row 3
    # A bad CERTS_PADDR is found only now: the PDH has been written.
    sp.write(buf.certs_paddr, identity.pek.pack() + identity.oca.pack() + cek.pack(), "CERTS_PADDR")  # row 4
    buf.pdh_cert_len, buf.certs_len = CERT_LEN, CHAIN_LEN


@command(0x09)
def pdh_gen(sp: SecureProcessor, _: None) -> None:
    """PDH_GEN (0x09): a new PDH."""
    sp.require_platform_state()  # row 1
    replace_identity(sp, sp.issuer.with_new_pdh(sp.require_identity()))  # row 2


@command(0x0A)
def df_flush(sp: SecureProcessor, _: None) -> None:
    """DF_FLUSH (0x0A): dirty ASIDs are clean where every core has executed WBINVD."""
    if not sp.profile.df_flush_in_uninit:
        sp.require_platform_state()  # row 1
    complete = sp.asids.flush()  # CCXs that are done are clean from here on, whatever the status
    require(complete, Status.WBINVD_REQUIRED, "not every core has executed WBINVD")  # row 3
    if sp.tmr is not None and sp.pool is None:
        sp.pool = VmsaPool(sp.tmr[0])


class FirmwareHeader(Layout, size=0x100):
    """Head of a firmware image as far as sevref reads it, 256 bytes.

    A synthetic image needs nothing else to be accepted.
    """

    reserved_00 = raw(0x00, 0x4C, "not read")
    svn = u8(0x4C, "security version")
    reserved_4d = raw(0x4D, 0x60 - 0x4D, "not read")
    build = u8(0x60, "build")
    api_minor = u8(0x61, "API version, minor")
    api_major = u8(0x62, "API version, major")
    reserved_63 = raw(0x63, 0x100 - 0x63, "not read")


@command(0x0B)
def download_firmware(sp: SecureProcessor, buf: b.DownloadFirmwareBuffer) -> None:
    """DOWNLOAD_FIRMWARE (0x0B): the version is the image's from now on."""
    sp.require_platform_state()  # row 1
    require(
        buf.fw_paddr % 32 == 0, Status.INVALID_ADDRESS, f"FW_PADDR 0x{buf.fw_paddr:X} must be 32-byte aligned"
    )  # row 2
    header = FirmwareHeader.parse(sp.read(buf.fw_paddr, FirmwareHeader.SIZE, "FW_PADDR"))  # row 3
    ok = FirmwareHeader.SIZE <= buf.fw_len <= MAX_IMAGE
    require(
        ok, Status.INVALID_LENGTH, f"FW_LEN must be {FirmwareHeader.SIZE} to {MAX_IMAGE}, found {buf.fw_len}"
    )  # row 4
    image = sp.read(buf.fw_paddr, buf.fw_len, "FW_PADDR")  # row 4
    verified = sp.image_verifier is None or sp.image_verifier(image)
    require(verified, Status.BAD_SIGNATURE, "the firmware image's signature does not verify")  # row 4
    sp.version = ApiVersion(header.api_major, header.api_minor, header.build)


@command(0x0C)
def get_id(sp: SecureProcessor, buf: b.GetIdBuffer) -> None:
    """GET_ID (0x0C): the chip's id, 64 bytes."""
    sp.require_platform_state()  # row 1
    room, buf.id_len = buf.id_len, ID_LEN  # written back on SUCCESS and on INVALID_LENGTH only
    require(room >= ID_LEN, Status.INVALID_LENGTH, f"ID_LEN must be at least {ID_LEN}, found {room}")  # row 2
    sp.write(buf.id_paddr, chip_id(sp.machine.fused_chip_key()), "ID_PADDR")  # row 4


@command(0x0E)
def nop(sp: SecureProcessor, _: None) -> None:
    """NOP (0x0E): nothing."""
    sp.require_platform_state()  # row 1


@command(0x0F)
def ring_buffer(sp: SecureProcessor, buf: b.RingBufferBuffer) -> None:
    """RING_BUFFER (0x0F): the checks, and then UNSUPPORTED."""
    sp.require_platform_state()  # row 1
    require(
        buf.low_size == 1, Status.INVALID_PARAM, f"low-priority queue size must be 1 page, found {buf.low_size}"
    )  # row 3
    require(
        buf.high_size <= 1, Status.INVALID_PARAM, f"high-priority queue size must be 0 or 1, found {buf.high_size}"
    )  # row 3
    pages = [("low-priority command", buf.low_command_paddr), ("low-priority status", buf.low_status_paddr)]
    if buf.high_size:
        pages += [("high-priority command", buf.high_command_paddr), ("high-priority status", buf.high_status_paddr)]
    for name, paddr in pages:
        require(paddr % 4096 == 0, Status.INVALID_ADDRESS, f"{name} queue 0x{paddr:X} must be aligned to 4096")  # row 4
    for name, paddr in pages:
        sp.check(paddr, 4096, f"{name} queue", copies=False)  # row 5
    # The queues themselves are not built: the parameters are checked as the firmware checks them, then it ends here.
    raise SevError(Status.UNSUPPORTED, "sevref does not enter ring-buffer mode")  # row 6
