"""Platform commands: one function each, checks in order, then effects (SEV API 55766, "Platform management")."""

from __future__ import annotations

from sevref.certs import SevCertificate, Usage, add_signature, validate
from sevref.firmware import buffers as b
from sevref.firmware.commands import command
from sevref.firmware.guest import VmsaPool
from sevref.firmware.identity import chip_id, without_signatures
from sevref.firmware.processor import SecureProcessor, require
from sevref.firmware.state import PlatformState
from sevref.machine import NONE
from sevref.status import SevError, Status

CERT_LEN = 2084
CHAIN_LEN = 3 * CERT_LEN
ID_LEN = 64
TMR_SIZE = 0x100000


@command(0x01)
def init(sp: SecureProcessor, buf: b.InitBuffer) -> None:
    sp.require_platform_state()
    require(sp.machine.memory_encryption, Status.HWERROR_PLATFORM, "memory encryption (SMEE, UMC) is not enabled")
    require(buf.options & ~1 == 0, Status.INVALID_CONFIG, f"OPTIONS bits 31:1 must be 0, found 0x{buf.options:X}")
    require(not any(buf.reserved_04), Status.INVALID_CONFIG, "reserved bytes 0x04-0x07 must be 0")
    try:
        load_identity(sp)
        sp.asids.reset()
        if buf.options & 1:
            reserve_tmr(sp, buf.tmr_paddr, buf.tmr_length)
    except SevError:
        sp.clear()  # the store keeps an identity made on the way, and the ASIDs stay dirty
        raise
    sp.es = bool(buf.options & 1)
    sp.state = PlatformState.INIT


def load_identity(sp: SecureProcessor) -> None:
    """Derive the CEK; take the identity from the store or make a new one and save it."""
    stored = sp.store.load()  # SECURE_DATA_INVALID: does not authenticate; the store was erased
    sp.cek = sp.derive_cek()
    if stored is None:
        stored = sp.issuer.fresh(sp.cek)  # HWERROR_PLATFORM: the random source gave an impossible key
        sp.store.save(stored, sp.machine.rng)
    sp.identity = stored


def reserve_tmr(sp: SecureProcessor, paddr: int, length: int) -> None:
    """Take the trusted memory region: host accesses by the firmware are refused from now on."""
    base = paddr & ~sp.machine.map.c_mask
    require(base % TMR_SIZE == 0, Status.INVALID_ADDRESS, f"TMR_PADDR 0x{paddr:X} must be aligned to 1 MiB")
    require(length == TMR_SIZE, Status.INVALID_LENGTH, f"TMR_LENGTH must be 0x100000, found 0x{length:X}")
    sp.check(paddr, length, "TMR_PADDR", copies=False)
    sp.tmr = (base, base + TMR_SIZE - 1)


@command(0x02)
def shutdown(sp: SecureProcessor, _: None) -> None:
    sp.require_platform_state()
    sp.machine.valid_asids.clear()
    if sp.tmr is not None and sp.pool is not None:
        for start, size in sp.profile.tmr_clear_on_shutdown:
            sp.machine.umc.write(NONE, sp.tmr[0] + start, bytes(size))
    sp.clear()


@command(0x04)
def platform_status(sp: SecureProcessor, buf: b.PlatformStatusBuffer) -> None:
    sp.require_platform_state()
    buf.api_major, buf.api_minor, buf.build = sp.version
    buf.state = sp.state
    buf.owner = int(sp.identity is not None and sp.identity.external)
    buf.config = int(sp.es)
    buf.guest_count = len(sp.guests)


@command(0x06)
def pek_csr(sp: SecureProcessor, buf: b.PekCsrBuffer) -> None:
    sp.require_platform_state()
    room, buf.csr_len = buf.csr_len, CERT_LEN
    require(room >= CERT_LEN, Status.INVALID_LENGTH, f"CSR_LEN must be at least {CERT_LEN}, found {room}")
    sp.write(buf.csr_paddr, without_signatures(sp.require_identity().pek).pack(), "CSR_PADDR")


@command(0x07)
def pek_cert_import(sp: SecureProcessor, buf: b.PekCertImportBuffer) -> None:
    sp.require_platform_state()
    current = sp.require_identity()
    require(not current.external, Status.ALREADY_OWNED, "the platform already has an external owner")
    require(
        buf.pek_cert_len == CERT_LEN and buf.oca_cert_len == CERT_LEN,
        Status.INVALID_LENGTH,
        f"PEK_CERT_LEN and OCA_CERT_LEN must be {CERT_LEN}, found {buf.pek_cert_len} and {buf.oca_cert_len}",
    )
    pek = SevCertificate.parse(sp.read(buf.pek_cert_paddr, CERT_LEN, "PEK_CERT_PADDR"))
    oca = SevCertificate.parse(sp.read(buf.oca_cert_paddr, CERT_LEN, "OCA_CERT_PADDR"))
    validate(oca, oca.signing_key())
    validate(pek, oca.signing_key())
    require(
        pek.body() == current.pek.body(),
        Status.INVALID_CERTIFICATE,
        "the PEK imported is not this platform's current PEK",
    )
    endorsement = next((slot for slot in current.pek.slots if slot.usage == Usage.CEK), None)
    if endorsement is None:
        raise SevError(Status.INVALID_CERTIFICATE, "the current PEK holds no CEK signature to carry over")
    add_signature(pek, endorsement)  # INVALID_CERTIFICATE: no free slot for the CEK's signature
    owned = sp.issuer.with_new_pdh(current.owned_by(oca, pek))
    sp.store.save(owned, sp.machine.rng)
    sp.identity = owned


@command(0x08)
def pdh_cert_export(sp: SecureProcessor, buf: b.PdhCertExportBuffer) -> None:
    sp.require_platform_state()
    if buf.pdh_cert_len < CERT_LEN or buf.certs_len < CHAIN_LEN:
        found = f"{buf.pdh_cert_len} and {buf.certs_len}"
        buf.pdh_cert_len, buf.certs_len = CERT_LEN, CHAIN_LEN
        rule = f"PDH_CERT_LEN and CERTS_LEN must be at least {CERT_LEN} and {CHAIN_LEN}, found {found}"
        raise SevError(Status.INVALID_LENGTH, rule)
    identity = sp.require_identity()
    cek = sp.issuer.exported_cek(sp.require_cek())
    sp.write(buf.pdh_cert_paddr, identity.pdh.pack(), "PDH_CERT_PADDR")
    # A bad CERTS_PADDR is found only now: the PDH has been written.
    sp.write(buf.certs_paddr, identity.pek.pack() + identity.oca.pack() + cek.pack(), "CERTS_PADDR")
    buf.pdh_cert_len, buf.certs_len = CERT_LEN, CHAIN_LEN


@command(0x0A)
def df_flush(sp: SecureProcessor, _: None) -> None:
    if not sp.profile.df_flush_in_uninit:
        sp.require_platform_state()
    complete = sp.asids.flush()  # CCXs that are done are clean from here on, whatever the status
    require(complete, Status.WBINVD_REQUIRED, "not every core has executed WBINVD")
    if sp.tmr is not None and sp.pool is None:
        sp.pool = VmsaPool(sp.tmr[0])


@command(0x0C)
def get_id(sp: SecureProcessor, buf: b.GetIdBuffer) -> None:
    sp.require_platform_state()
    room, buf.id_len = buf.id_len, ID_LEN  # written back on SUCCESS and on INVALID_LENGTH only
    require(room >= ID_LEN, Status.INVALID_LENGTH, f"ID_LEN must be at least {ID_LEN}, found {room}")
    sp.write(buf.id_paddr, chip_id(sp.machine.fused_chip_key()), "ID_PADDR")


@command(0x0E)
def nop(sp: SecureProcessor, _: None) -> None:
    sp.require_platform_state()
