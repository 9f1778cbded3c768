"""Launching a guest: load, measure, inject secrets, run, attest (SEV API 55766, "LAUNCH_START", "ATTESTATION")."""

from __future__ import annotations

from collections.abc import Iterator

from sevref.certs import Algo, SevCertificate, Usage
from sevref.crypto import aes_ctr, ecdsa_sign
from sevref.firmware import buffers as b
from sevref.firmware.commands import command
from sevref.firmware.guest import Guest, vmsa_checksum
from sevref.firmware.processor import SecureProcessor, require
from sevref.firmware.state import GuestState, PlatformState
from sevref.layout import Layout, raw
from sevref.machine import NONE
from sevref.measurement import VMSA_SIZE, AttestationReport, MeasurementBlob, launch_measurement
from sevref.policy import Policy
from sevref.status import SevError, Status
from sevref.transport import (
    Channel,
    Context,
    PacketHeader,
    Session,
    require_packet_mac,
    require_policy,
    require_uncompressed,
    secret_trailer,
)

CERT_LEN = SevCertificate.SIZE
SESSION_LEN = Session.SIZE
HEADER_LEN = PacketHeader.SIZE
MEASURE_LEN = MeasurementBlob.SIZE
REPORT_LEN = AttestationReport.SIZE
VMSA_LEN = VMSA_SIZE
NO_SESSION = Channel(tek=bytes(16), tik=bytes(16), ms=bytes(16), nonce=bytes(16))


@command(0x30)
def launch_start(sp: SecureProcessor, buf: b.LaunchStartBuffer) -> None:
    """LAUNCH_START (0x30): a guest in LUPDATE, with the channel of its owner's session."""
    sp.require_platform_state()  # row 1
    policy, channel = Policy(buf.policy), NO_SESSION
    if buf.dh_cert_paddr:
        channel = open_channel(sp, buf, policy)
    elif sp.profile.strict_policy:
        require_policy(policy, sp.version.api)  # row 9 and row 10, without a session too
    guest = new_guest(sp, buf.handle, policy)
    guest.tek, guest.tik, guest.ms, guest.nonce = channel.tek, channel.tik, channel.ms, channel.nonce
    buf.handle = guest.handle


def open_channel(sp: SecureProcessor, buf: b.LaunchStartBuffer, policy: Policy) -> Channel:
    """Read and open the session that the guest owner made for this platform's PDH."""
    length = buf.session_len
    require(length == SESSION_LEN, Status.INVALID_LENGTH, f"SESSION_LEN must be {SESSION_LEN}, found {length}")  # row 2
    session = Session.parse(sp.read(buf.session_paddr, SESSION_LEN, "SESSION_PADDR"))  # row 3
    length = buf.dh_cert_len
    require(length == CERT_LEN, Status.INVALID_LENGTH, f"DH_CERT_LEN must be {CERT_LEN}, found {length}")  # row 4
    godh = SevCertificate.parse(sp.read(buf.dh_cert_paddr, CERT_LEN, "DH_CERT_PADDR"))  # row 5
    return session.open(sp.require_identity().pdh_key, godh, policy, api=sp.version.api)  # row 6


def new_guest(sp: SecureProcessor, share_with: int, policy: Policy) -> Guest:
    """A new guest context (LAUNCH_START, RECEIVE_START); ``share_with`` is 0 or the guest that lends its VEK."""
    lender = sp.guest(share_with) if share_with else None  # LAUNCH_START row 11, RECEIVE_START row 8
    if lender is not None:
        require(  # LAUNCH_START row 12, RECEIVE_START row 9
            policy == lender.policy, Status.POLICY_FAILURE, "POLICY must equal that of the guest whose key is shared"
        )
        require(
            not lender.policy.noks, Status.POLICY_FAILURE, "the other guest's policy forbids key sharing (NOKS)"
        )  # LAUNCH_START row 12, RECEIVE_START row 9
    vek = lender.vek if lender is not None else None
    if vek is None and sp.profile.draw_vek_before_checks:
        vek = sp.machine.rng.draw(32, "VEK")
    handle = sp.free_handle()  # LAUNCH_START row 13, RECEIVE_START row 10
    require(
        sp.es or not policy.es, Status.UNSUPPORTED, "POLICY.ES needs a platform initialised with SEV-ES"
    )  # LAUNCH_START row 14, RECEIVE_START row 11
    if vek is None:
        vek = sp.machine.rng.draw(32, "VEK")
    guest = Guest(handle, policy, vek, oek=sp.machine.rng.draw(32, "OEK"))
    sp.guests[handle] = guest
    sp.state = PlatformState.WORKING
    return guest


@command(0x31)
def launch_update_data(sp: SecureProcessor, buf: b.LaunchUpdateBuffer) -> None:
    """LAUNCH_UPDATE_DATA (0x31): memory into the launch digest, then encrypted in place."""
    guest = updatable_guest(sp, buf)
    for address, size in chunks(sp, buf.paddr, buf.length):
        sp.check(address, size, "PADDR", copies=False)  # row 8: no real firmware copies more than a chunk at once
        measure_and_encrypt(sp, guest, address, size)


def updatable_guest(sp: SecureProcessor, buf: b.LaunchUpdateBuffer, *, vmsa: bool = False) -> Guest:
    """Checks that LAUNCH_UPDATE_DATA and LAUNCH_UPDATE_VMSA share."""
    sp.require_platform_state()  # row 1
    guest = sp.guest(buf.handle)  # row 2
    sp.require_guest_state(guest)  # row 3
    require(guest.es or not vmsa, Status.UNSUPPORTED, "the guest's policy has no ES, so it has no VMSA")  # row 4
    sp.require_bound(guest)  # row 5
    require(buf.paddr % 16 == 0, Status.INVALID_ADDRESS, f"PADDR 0x{buf.paddr:X} must be 16-byte aligned")  # row 6
    length = buf.length
    ok = length != 0 and length % 16 == 0
    require(ok, Status.INVALID_LENGTH, f"LENGTH must be a multiple of 16 and not 0, found {length}")  # row 7
    return guest


def chunks(sp: SecureProcessor, address: int, length: int) -> Iterator[tuple[int, int]]:
    """The range in the pieces that the firmware finishes one by one: one piece, unless the profile has chunks."""
    step = sp.profile.update_chunk or length
    for offset in range(0, length, step):
        yield address + offset, min(step, length - offset)


def measure_and_encrypt(sp: SecureProcessor, guest: Guest, address: int, size: int) -> None:
    """Read plaintext through the host, feed it to the launch digest, encrypt it in place with the guest's key."""
    plain, umc = address & ~sp.machine.map.c_mask, sp.machine.umc
    umc.encrypt_in_place(sp.host_key_id(address), NONE, plain, size)
    guest.digest.update(sp.machine.dram.view(plain, size))
    umc.encrypt_in_place(NONE, guest.asid, plain, size)


class VmsaTag(Layout, size=0x10):
    """What the firmware puts at offset 0x380 of a VMSA page after measuring it, 16 bytes."""

    zero = raw(0x00, 8, "set to zero")
    slot = raw(0x08, 8, "physical address of the page's checksum slot, little-endian")


@command(0x32)
def launch_update_vmsa(sp: SecureProcessor, buf: b.LaunchUpdateBuffer) -> None:
    """LAUNCH_UPDATE_VMSA (0x32): a register page into the launch digest, then tagged and encrypted in place."""
    length = buf.length
    require(  # row 0
        length == VMSA_LEN, Status.INVALID_LENGTH, f"LENGTH must be 4096, found {length}"
    )  # before the platform state
    guest = updatable_guest(sp, buf, vmsa=True)
    page = sp.read(buf.paddr, VMSA_LEN, "PADDR")  # row 8
    if sp.profile.vmsa_measured_before_slot:
        guest.digest.update(page)
    pool = sp.pool
    if pool is None or not pool.available:
        raise SevError(Status.RESOURCE_LIMIT, "no free VMSA checksum slot")  # row 9
    if not sp.profile.vmsa_measured_before_slot:
        guest.digest.update(page)
    store_vmsa(sp, guest, buf.paddr, page, pool.take())


def store_vmsa(sp: SecureProcessor, guest: Guest, address: int, page: bytes, slot: int) -> None:
    """Tag a VMSA page with its checksum slot, keep its checksum there and write it with the guest's key."""
    tag = VmsaTag(slot=slot.to_bytes(8, "little")).pack()
    page = page[:0x380] + tag + page[0x390:]
    sp.machine.umc.write(NONE, slot, vmsa_checksum(page))
    sp.guest_write(guest, address, page)
    guest.vmsa_slots.append(slot)


@command(0x33)
def launch_measure(sp: SecureProcessor, buf: b.LaunchMeasureBuffer) -> None:
    """LAUNCH_MEASURE (0x33): the digest is final; measurement and nonce for the owner."""
    sp.require_platform_state()  # row 1
    guest = sp.guest(buf.handle)  # row 2
    sp.require_guest_state(guest)  # row 3
    room = buf.measure_len
    if room < MEASURE_LEN:
        buf.measure_len = MEASURE_LEN
        raise SevError(Status.INVALID_LENGTH, f"MEASURE_LEN must be at least {MEASURE_LEN}, found {room}")  # row 4
    if not sp.profile.failed_measure_finalises:
        sp.check(buf.measure_paddr, MEASURE_LEN, "MEASURE_PADDR")  # row 5
    mnonce = sp.machine.rng.draw(16, "MNONCE")
    digest, version = guest.digest.digest(), sp.version
    measure = launch_measurement(
        guest.tik, api=version.api, build=version.build, policy=guest.policy, digest=digest, nonce=mnonce
    )
    try:
        sp.write(buf.measure_paddr, MeasurementBlob(measure=measure, mnonce=mnonce).pack(), "MEASURE_PADDR")  # row 5
    except SevError:
        guest.digest.finalise_in_place()  # reached under failed_measure_finalises alone
        raise
    guest.measure, guest.launch_digest = measure, digest
    guest.state = GuestState.LSECRET


@command(0x34)
def launch_secret(sp: SecureProcessor, buf: b.PacketBuffer) -> None:
    """LAUNCH_SECRET (0x34): the owner's packet, if its MAC verifies, into guest memory."""
    sp.require_platform_state()  # row 1
    guest = sp.guest(buf.handle)  # row 2
    require(  # row 3
        buf.guest_paddr % 16 == 0, Status.INVALID_ADDRESS, f"GUEST_PADDR 0x{buf.guest_paddr:X} must be 16-byte aligned"
    )
    require(
        buf.hdr_len == HEADER_LEN, Status.INVALID_LENGTH, f"HDR_LEN must be {HEADER_LEN}, found {buf.hdr_len}"
    )  # row 4
    length, limit = buf.guest_len, sp.profile.packet_max_len
    ok = 0 < length <= limit and length % 16 == 0
    require(
        ok, Status.INVALID_LENGTH, f"GUEST_LEN must be a multiple of 16 from 16 to {limit}, found {length}"
    )  # row 4
    require(  # row 4
        length == buf.trans_len,
        Status.INVALID_LENGTH,
        f"TRANS_LEN must equal GUEST_LEN {length}, found {buf.trans_len}",
    )
    sp.require_guest_state(guest)  # row 5
    sp.require_bound(guest)  # row 6
    header = PacketHeader.parse(sp.read(buf.hdr_paddr, HEADER_LEN, "HDR_PADDR"))  # row 7
    sp.check(buf.guest_paddr, length, "GUEST_PADDR")  # row 7
    data = sp.read(buf.trans_paddr, length, "TRANS_PADDR")  # row 7
    trailer = secret_trailer(guest.measure, sp.version.api)
    require_packet_mac(guest.tik, Context.SECRET, header, data, trailer=trailer)  # row 8
    require_uncompressed(header)  # row 9
    sp.guest_write(guest, buf.guest_paddr, aes_ctr(guest.tek, header.iv, data))


@command(0x35)
def launch_finish(sp: SecureProcessor, buf: b.HandleBuffer) -> None:
    """LAUNCH_FINISH (0x35): the guest may run, the channel is wiped."""
    sp.require_platform_state()  # row 1
    guest = sp.guest(buf.handle)  # row 2
    sp.require_guest_state(guest)  # row 3
    sp.asids.make_runnable(guest)
    guest.close_channel()
    guest.state = GuestState.RUNNING


@command(0x36)
def attestation(sp: SecureProcessor, buf: b.AttestationBuffer) -> None:
    """ATTESTATION (0x36): nonce, launch digest and policy, signed by the PEK."""
    sp.require_platform_state()  # row 1
    guest = sp.guest(buf.handle)  # row 2
    sp.require_guest_state(guest)  # row 3
    room, buf.length = buf.length, REPORT_LEN  # written back on SUCCESS and on INVALID_LENGTH only
    require(room >= REPORT_LEN, Status.INVALID_LENGTH, f"LENGTH must be at least {REPORT_LEN}, found {room}")  # row 4
    if not sp.profile.attestation_draws_before_address_check:
        sp.check(buf.paddr, REPORT_LEN, "PADDR")  # row 5
    report = AttestationReport(mnonce=buf.mnonce, launch_digest=guest.launch_digest, policy=guest.policy)
    report.sig_usage, report.sig_algo = Usage.PEK, Algo.ECDSA_SHA256
    key, nonce = sp.require_identity().pek_key, sp.issuer.nonce("PEK signs report")
    report.r, report.s = ecdsa_sign(key, report.signed_bytes(), "sha256", nonce)
    sp.write(buf.paddr, report.pack(), "PADDR")  # row 5
