"""Sending and receiving a guest: migration and snapshots (SEV API 55766, "SEND_START", "RECEIVE_START").

What travels is a session (TEK and TIK wrapped for the receiver's PDH) and packets; the memory key never does.
"""

from __future__ import annotations

from sevref.certs import Roots, SevCertificate, Usage, check_peer, read_amd_chain, validate, validate_amd
from sevref.certs.amd import AMD_CHAIN_LENGTHS
from sevref.crypto import aes_ctr, ecdh
from sevref.firmware import buffers as b
from sevref.firmware.commands import command
from sevref.firmware.guest import Guest, vmsa_checksum
from sevref.firmware.launch import CERT_LEN, HEADER_LEN, SESSION_LEN, VMSA_LEN, new_guest, store_vmsa
from sevref.firmware.platform import CHAIN_LEN
from sevref.firmware.processor import SecureProcessor, require
from sevref.firmware.state import GuestState
from sevref.machine import NONE
from sevref.policy import Policy
from sevref.status import SevError, Status
from sevref.transport import (
    Context,
    PacketHeader,
    Session,
    make_packet,
    master_secret,
    require_packet_mac,
    require_uncompressed,
)


@command(0x40)
def send_start(sp: SecureProcessor, buf: b.SendStartBuffer) -> None:
    """SEND_START (0x40): a session with fresh keys for the receiver that the guest's policy permits."""
    sp.require_platform_state()  # row 1
    guest = sp.guest(buf.handle)  # row 2
    found, buf.session_len = buf.session_len, SESSION_LEN
    require(found == SESSION_LEN, Status.INVALID_LENGTH, f"SESSION_LEN must be {SESSION_LEN}, found {found}")  # row 3
    sp.require_guest_state(guest)  # row 4
    policy = guest.policy
    require(not policy.nosend, Status.POLICY_FAILURE, "the guest's policy forbids sending (NOSEND)")  # row 5
    chain = Receiver(sp, buf)
    if policy.sev:
        chain.require_sev_platform()
        api = chain.pek.api_major, chain.pek.api_minor
        rule = f"the receiver's PEK says API {api[0]}.{api[1]}, the policy wants {policy.api[0]}.{policy.api[1]}"
        require(policy.allows_api(*api), Status.POLICY_FAILURE, rule)  # row 7
    if policy.domain:
        chain.require_same_domain()
    pdh = chain.pdh  # row 10
    check_peer(pdh)  # row 11
    if not sp.profile.send_start_draws_before_address_check:
        sp.check(buf.session_paddr, SESSION_LEN, "SESSION_PADDR")  # row 12a
    tek, tik, nonce = (sp.machine.rng.draw(16, what) for what in ("TEK", "TIK", "NONCE"))
    ms = master_secret(ecdh(sp.require_identity().pdh_key, pdh), nonce)
    wrap_iv = sp.machine.rng.draw(16, "WRAP_IV")
    session = Session.wrap(ms, policy, tek=tek, tik=tik, nonce=nonce, wrap_iv=wrap_iv)
    sp.write(buf.session_paddr, session.pack(), "SESSION_PADDR")  # row 12a
    guest.tek, guest.tik, guest.ms, guest.nonce = tek, tik, ms, nonce
    guest.measure = bytes(32)
    guest.state = GuestState.SUPDATE
    buf.policy = policy


class Receiver:
    """The receiver's certificates as SEND_START reads them: each buffer once, in the order in which it is needed."""

    def __init__(self, sp: SecureProcessor, buf: b.SendStartBuffer) -> None:
        self._sp, self._buf = sp, buf
        self._pdh: SevCertificate | None = None
        self._platform: list[SevCertificate] = []

    def _require_lengths(self) -> None:
        found = self._buf.plat_certs_len
        require(
            found == CHAIN_LEN, Status.INVALID_LENGTH, f"PLAT_CERTS_LEN must be {CHAIN_LEN}, found {found}"
        )  # row a
        self._require_pdh_length()

    def _require_pdh_length(self) -> None:
        found = self._buf.pdh_cert_len
        require(found == CERT_LEN, Status.INVALID_LENGTH, f"PDH_CERT_LEN must be {CERT_LEN}, found {found}")  # row a

    def _read_pdh(self) -> SevCertificate:
        self._pdh = SevCertificate.parse(self._sp.read(self._buf.pdh_cert_paddr, CERT_LEN, "PDH_CERT_PADDR"))  # row b
        return self._pdh

    def _read_platform(self) -> None:
        data = self._sp.read(self._buf.plat_certs_paddr, CHAIN_LEN, "PLAT_CERTS_PADDR")  # row b
        self._platform = [SevCertificate.parse(data[i : i + CERT_LEN]) for i in range(0, CHAIN_LEN, CERT_LEN)]
        self._read_pdh()

    @property
    def pek(self) -> SevCertificate:
        """The receiver's PEK certificate; read already."""
        return self._platform[0]

    @property
    def pdh(self) -> SevCertificate:
        """The receiver's PDH; without SEV and DOMAIN it is all that is looked at."""
        if self._pdh is not None:
            return self._pdh
        self._require_pdh_length()
        return self._read_pdh()

    def require_sev_platform(self) -> None:
        """POLICY.SEV: ARK, ASK, CEK, PEK and PDH, each signed by the one before; the ARK is the fused one."""
        sp, amd_len = self._sp, self._buf.amd_certs_len
        self._require_lengths()
        require(  # row a
            amd_len in AMD_CHAIN_LENGTHS,
            Status.INVALID_LENGTH,
            f"AMD_CERTS_LEN must be one of {AMD_CHAIN_LENGTHS}, found {amd_len}",
        )
        self._read_platform()
        ask, ark = read_amd_chain(sp.read(self._buf.amd_certs_paddr, amd_len, "AMD_CERTS_PADDR"))  # row c
        generation = sp.machine.generation
        fused = Roots("custom", generation, ark, ask, sp.machine.root_hash)
        validate_amd(ark, ark, Usage.ARK, generation, root=fused)  # row d
        validate_amd(ask, ark, Usage.ASK, generation)  # row e
        pek, _, cek = self._platform
        validate(cek, ask.signing_key(generation))  # row f
        validate(pek, cek.signing_key())  # row g
        validate(self.pdh, pek.signing_key())  # row h

    def require_same_domain(self) -> None:
        """POLICY.DOMAIN: OCA, PEK and PDH, and the OCA is this platform's own, byte for byte."""
        if not self._platform:
            self._require_lengths()
            self._read_platform()
        pek, oca, _ = self._platform
        validate(oca, oca.signing_key())  # row c
        validate(pek, oca.signing_key())  # row d
        validate(self.pdh, pek.signing_key())  # row e
        own = self._sp.require_identity().oca
        require(
            oca.pack() == own.pack(), Status.POLICY_FAILURE, "the receiver's OCA is not this platform's (DOMAIN)"
        )  # row f


@command(0x41)
def send_update_data(sp: SecureProcessor, buf: b.PacketBuffer) -> None:
    """SEND_UPDATE_DATA (0x41): guest memory as a packet."""
    send_update(sp, buf, vmsa=False)


@command(0x42)
def send_update_vmsa(sp: SecureProcessor, buf: b.PacketBuffer) -> None:
    """SEND_UPDATE_VMSA (0x42): a register page of this guest as a packet."""
    send_update(sp, buf, vmsa=True)


def send_update(sp: SecureProcessor, buf: b.PacketBuffer, *, vmsa: bool) -> None:
    """Encrypt guest memory for the channel: the one body of SEND_UPDATE_DATA and SEND_UPDATE_VMSA."""
    sp.require_platform_state()  # row 1
    room = buf.hdr_len
    if room < HEADER_LEN:
        buf.hdr_len = HEADER_LEN
        raise SevError(Status.INVALID_LENGTH, f"HDR_LEN must be at least {HEADER_LEN}, found {room}")  # row 2
    guest = sp.guest(buf.handle)  # row 3
    sp.require_guest_state(guest)  # row 4
    require(guest.es or not vmsa, Status.UNSUPPORTED, "the guest's policy has no ES, so it has no VMSA")  # row 5
    sp.require_bound(guest)  # row 6
    require_packet_length(sp, buf.guest_len)  # row 7
    length, trans = buf.guest_len, buf.trans_len
    require(
        trans >= length, Status.INVALID_LENGTH, f"TRANS_LEN must be at least GUEST_LEN {length}, found {trans}"
    )  # row 7
    require(  # row 8
        buf.guest_paddr % 16 == 0, Status.INVALID_ADDRESS, f"GUEST_PADDR 0x{buf.guest_paddr:X} must be 16-byte aligned"
    )
    sp.check(buf.guest_paddr, length, "GUEST_PADDR")  # row 10
    plain = sp.guest_read(guest, buf.guest_paddr, length)
    if vmsa:
        ok = length >= VMSA_LEN and is_vmsa(sp, guest, plain)
        require(ok, Status.INVALID_PARAM, "the range does not start with a VMSA of this guest")  # row 11
    if not sp.profile.send_update_partial_output:
        sp.check(buf.trans_paddr, length, "TRANS_PADDR")  # row 13
        sp.check(buf.hdr_paddr, HEADER_LEN, "HDR_PADDR")  # row 14
    iv = sp.machine.rng.draw(16, "packet IV")
    header, data = make_packet(guest.tek, guest.tik, packet_context(sp, vmsa), plain, iv=iv)
    sp.write(buf.trans_paddr, data, "TRANS_PADDR")  # row 13
    sp.write(buf.hdr_paddr, header.pack(), "HDR_PADDR")  # row 14
    buf.hdr_len = HEADER_LEN


def require_packet_length(sp: SecureProcessor, length: int) -> None:
    """INVALID_LENGTH unless the payload is a multiple of 16 from 16 to the profile's limit."""
    limit = sp.profile.packet_max_len
    ok = 0 < length <= limit and length % 16 == 0
    require(ok, Status.INVALID_LENGTH, f"GUEST_LEN must be a multiple of 16 from 16 to {limit}, found {length}")


def packet_context(sp: SecureProcessor, vmsa: bool) -> int:
    """First byte of the packet's MAC input."""
    return sp.profile.vmsa_packet_context if vmsa else Context.DATA


def is_vmsa(sp: SecureProcessor, guest: Guest, page: bytes) -> bool:
    """Whether a page names a checksum slot of this guest at 0x388 and its checksum is the one in there."""
    slot = int.from_bytes(page[0x388:0x390], "little")
    return slot in guest.vmsa_slots and sp.machine.umc.read(NONE, slot, 8) == vmsa_checksum(page)


@command(0x43)
def send_finish(sp: SecureProcessor, buf: b.HandleBuffer) -> None:
    """SEND_FINISH (0x43): the guest is SENT, the channel is wiped."""
    sp.require_platform_state()  # row 1
    guest = sp.guest(buf.handle)  # row 2
    sp.require_guest_state(guest)  # row 3
    guest.close_channel()
    guest.state = GuestState.SENT


@command(0x44)
def send_cancel(sp: SecureProcessor, buf: b.HandleBuffer) -> None:
    """SEND_CANCEL (0x44): the guest is RUNNING again, the channel is wiped."""
    sp.require_platform_state()  # row 1
    guest = sp.guest(buf.handle)  # row 2
    sp.require_guest_state(guest)  # row 3
    guest.close_channel()
    guest.state = GuestState.RUNNING


@command(0x50)
def receive_start(sp: SecureProcessor, buf: b.ReceiveStartBuffer) -> None:
    """RECEIVE_START (0x50): a guest in RUPDATE, with the channel of the sender's session."""
    sp.require_platform_state()  # row 1
    found = buf.session_len
    require(found == SESSION_LEN, Status.INVALID_LENGTH, f"SESSION_LEN must be {SESSION_LEN}, found {found}")  # row 2
    session = Session.parse(sp.read(buf.session_paddr, SESSION_LEN, "SESSION_PADDR"))  # row 3
    found = buf.pdh_cert_len
    require(found == CERT_LEN, Status.INVALID_LENGTH, f"PDH_CERT_LEN must be {CERT_LEN}, found {found}")  # row 4
    sender = SevCertificate.parse(sp.read(buf.pdh_cert_paddr, CERT_LEN, "PDH_CERT_PADDR"))  # row 5
    policy = Policy(buf.policy)
    channel = session.open(sp.require_identity().pdh_key, sender, policy, api=sp.version.api)  # row 6
    guest = new_guest(sp, buf.handle, policy)
    guest.tek, guest.tik, guest.ms, guest.nonce = channel.tek, channel.tik, channel.ms, channel.nonce
    guest.state = GuestState.RUPDATE
    buf.handle = guest.handle


@command(0x51)
def receive_update_data(sp: SecureProcessor, buf: b.PacketBuffer) -> None:
    """RECEIVE_UPDATE_DATA (0x51): a packet, if its MAC verifies, into guest memory."""
    receive_update(sp, buf, vmsa=False)


@command(0x52)
def receive_update_vmsa(sp: SecureProcessor, buf: b.PacketBuffer) -> None:
    """RECEIVE_UPDATE_VMSA (0x52): the same for a register page, which gets a checksum slot."""
    receive_update(sp, buf, vmsa=True)


def receive_update(sp: SecureProcessor, buf: b.PacketBuffer, *, vmsa: bool) -> None:
    """Open a packet and write it to guest memory: the one body of RECEIVE_UPDATE_DATA and RECEIVE_UPDATE_VMSA."""
    sp.require_platform_state()  # row 1
    guest = sp.guest(buf.handle)  # row 2
    sp.require_guest_state(guest)  # row 3
    require(guest.es or not vmsa, Status.UNSUPPORTED, "the guest's policy has no ES, so it has no VMSA")  # row 4
    sp.require_bound(guest)  # row 5
    require_packet_length(sp, buf.guest_len)  # row 6
    length = buf.guest_len
    require(  # row 6
        length == buf.trans_len,
        Status.INVALID_LENGTH,
        f"TRANS_LEN must equal GUEST_LEN {length}, found {buf.trans_len}",
    )
    require(  # row 6
        buf.hdr_len >= HEADER_LEN, Status.INVALID_LENGTH, f"HDR_LEN must be at least {HEADER_LEN}, found {buf.hdr_len}"
    )
    require(  # row 7
        buf.guest_paddr % 16 == 0, Status.INVALID_ADDRESS, f"GUEST_PADDR 0x{buf.guest_paddr:X} must be 16-byte aligned"
    )
    header = PacketHeader.parse(sp.read(buf.hdr_paddr, HEADER_LEN, "HDR_PADDR"))  # row 8a
    require_uncompressed(header)  # row 9
    sp.check(buf.guest_paddr, length, "GUEST_PADDR")  # row 9a
    data = sp.read(buf.trans_paddr, length, "TRANS_PADDR")  # row 9a
    require_packet_mac(guest.tik, packet_context(sp, vmsa), header, data)  # row 10
    plain = aes_ctr(guest.tek, header.iv, data)
    if vmsa:
        require(  # row 11
            length >= VMSA_LEN, Status.INVALID_LENGTH, f"a VMSA packet holds at least {VMSA_LEN} bytes, found {length}"
        )
        pool = sp.pool
        if pool is None or not pool.available:
            raise SevError(Status.RESOURCE_LIMIT, "no free VMSA checksum slot")  # row 11
        store_vmsa(sp, guest, buf.guest_paddr, plain, pool.take())
    else:
        sp.guest_write(guest, buf.guest_paddr, plain)


@command(0x53)
def receive_finish(sp: SecureProcessor, buf: b.HandleBuffer) -> None:
    """RECEIVE_FINISH (0x53): the guest may run, the channel is wiped."""
    sp.require_platform_state()  # row 1
    guest = sp.guest(buf.handle)  # row 2
    sp.require_guest_state(guest)  # row 3
    sp.asids.make_runnable(guest)
    guest.close_channel()
    guest.state = GuestState.RUNNING
