"""The trusted channel between a guest owner (or a sending platform) and the firmware: session, keys, packets.

Two P-384 keys agree on Z; from Z and a nonce come, in turn, the master secret and the two keys that wrap TEK
and TIK. TEK encrypts what travels, TIK authenticates it: the policy, packets, the launch measurement.
Everything here is a pure function of its arguments; states, addresses and lengths are checked by the
firmware's commands."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self, TypeAlias

from sevref.certs import Algo, SevCertificate, Usage, check_peer, new_certificate
from sevref.crypto import (
    OsRandom,
    Point,
    PrivateLike,
    PublicLike,
    RandomSource,
    aes_ctr,
    as_point,
    draw_private,
    ecdh,
    hmac_sha256,
    kdf,
    require_mac,
)
from sevref.layout import AFTER, Layout, raw, u8, u32
from sevref.measurement import FIRST_API_WITH_CONTEXT, ApiVersion
from sevref.policy import Policy
from sevref.status import InputError, SevError, Status

Peer: TypeAlias = SevCertificate | PublicLike

# ---------------------------------------------------------------------------------------------- key schedule


def master_secret(z: bytes, nonce: bytes) -> bytes:
    """Master secret, 16 bytes, from Z (48 bytes big-endian, leading zeros kept) and NONCE (16 bytes).

    KDF with the label ``sev-master-secret`` and NONCE as context. SEV API 55766, "LAUNCH_START".

        >>> from sevref import key_wrap_keys, master_secret
        >>> ms = master_secret(bytes(48), nonce=bytes(16))
        >>> kek, kik = key_wrap_keys(ms)
        >>> len(ms), len(kek), len(kik)
        (16, 16, 16)
    """
    return kdf(z, b"sev-master-secret", nonce)


def key_wrap_keys(ms: bytes) -> tuple[bytes, bytes]:
    """KEK and KIK, 16 bytes each, from the master secret (16 bytes).

    KEK encrypts TEK || TIK in a session, KIK authenticates the ciphertext. SEV API 55766, "LAUNCH_START"."""
    return kdf(ms, b"sev-kek"), kdf(ms, b"sev-kik")


class TransportKeys(Layout, size=0x20):
    """TEK and TIK as they are wrapped, 32 bytes; tools store them in one file in this order."""

    tek = raw(0x00, 16, "transport encryption key, AES-128", secret=True)
    tik = raw(0x10, 16, "transport integrity key, HMAC-SHA-256", secret=True)


class PolicyMacInput(Layout, size=0x04):
    """What POLICY_MAC authenticates: the policy, 4 bytes, little-endian."""

    policy = u32(0x00, "the guest's policy")


@dataclass(frozen=True)
class Channel:
    """What the opener of a session holds: TEK, TIK, master secret and nonce, 16 bytes each."""

    tek: bytes = field(repr=False)
    tik: bytes = field(repr=False)
    ms: bytes = field(repr=False)
    nonce: bytes = field(repr=False)


@dataclass(frozen=True)
class Opened:
    """What ``Session.create`` makes: ``godh`` and ``session`` for the hypervisor, the rest to keep.

    ``godh`` is the owner's certificate (2084 bytes), ``tek`` and ``tik`` have 16 bytes each and are in no ``repr``."""

    godh: SevCertificate
    session: Session
    policy: Policy
    tek: bytes = field(repr=False)
    tik: bytes = field(repr=False)


# ---------------------------------------------------------------------------------------------- session


class Session(Layout, size=0x80):
    """Session buffer of LAUNCH_START, SEND_START and RECEIVE_START, 128 bytes.

    Nothing in it says which command it is for, and nothing is fresh: it can be presented any number of times to the
    platform whose PDH it was made for (SEV API 55766, "LAUNCH_START"). Offset, size in bytes, field:

        0x00 16  nonce       context of the master secret's derivation
        0x10 32  wrap_tk     TEK || TIK, AES-128-CTR encrypted under KEK
        0x30 16  wrap_iv     first counter block of that encryption; not covered by WRAP_MAC
        0x40 32  wrap_mac    HMAC-SHA-256 of WRAP_TK under KIK
        0x60 32  policy_mac  HMAC-SHA-256 of POLICY (u32) under TIK

    In use:

        >>> from sevref import PrivateKey, SeededRandom, Session
        >>> pdh = PrivateKey(12345)
        >>> opened = Session.create(pdh.public, policy=1, rng=SeededRandom(b"docs", "guest owner"))
        >>> opened.session.open(pdh, opened.godh, policy=1).tek == opened.tek
        True
    """

    nonce = raw(0x00, 16, "context of the master secret's derivation")
    wrap_tk = raw(0x10, 32, "TEK || TIK, AES-128-CTR encrypted under KEK")
    wrap_iv = raw(0x30, 16, "first counter block of that encryption; not covered by WRAP_MAC")
    wrap_mac = raw(0x40, 32, "HMAC-SHA-256 of WRAP_TK under KIK")
    policy_mac = raw(0x60, 32, "HMAC-SHA-256 of POLICY (u32) under TIK")

    @classmethod
    def wrap(cls, ms: bytes, policy: int, *, tek: bytes, tik: bytes, nonce: bytes, wrap_iv: bytes) -> Self:
        """Session from a master secret that ``nonce`` went into. No randomness.

        ``ms``, ``tek``, ``tik``, ``nonce`` and ``wrap_iv`` have 16 bytes each; ``InputError`` for an IV or a key of
        another size, and for a policy outside 32 bits."""
        keys = TransportKeys(tek=tek, tik=tik).pack()
        kek, kik = key_wrap_keys(ms)
        wrapped = aes_ctr(kek, wrap_iv, keys)
        return cls(
            nonce=nonce,
            wrap_tk=wrapped,
            wrap_iv=wrap_iv,
            wrap_mac=hmac_sha256(kik, wrapped),
            policy_mac=hmac_sha256(tik, PolicyMacInput(policy=policy).pack()),
        )

    @classmethod
    def build(
        cls,
        private_key: PrivateLike,
        peer: Peer,
        policy: int,
        *,
        tek: bytes,
        tik: bytes,
        nonce: bytes,
        wrap_iv: bytes,
    ) -> Self:
        """Session from one's own private key to ``peer``: a certificate, a point or the library's key.

        No randomness. ``SevError`` INVALID_CERTIFICATE if the certificate is not a sane PDH (``check_peer`` of
        ``sevref.certs``) or the point is not on P-384; ``InputError`` for TEK, TIK or IV that is not 16 bytes (a nonce
        of another size is refused by ``pack`` only)."""
        ms = master_secret(ecdh(private_key, _peer_point(peer)), nonce)
        return cls.wrap(ms, policy, tek=tek, tik=tik, nonce=nonce, wrap_iv=wrap_iv)

    @classmethod
    def create(
        cls, pdh_certificate: Peer, policy: int, *, rng: RandomSource | None = None, api: ApiVersion = (0, 0)
    ) -> Opened:
        """Guest owner's side of LAUNCH_START: a fresh GODH key, TEK, TIK and a session to the platform's PDH.

        Drawn from ``rng`` (default: the operating system), in this order: GODH key 48 bytes, TEK, TIK, NONCE, WRAP_IV
        16 bytes each. The GODH certificate is not signed (the firmware verifies no signature on it) and names API
        version ``api``; its private key is forgotten. The PDH certificate's chain is *not* verified here: see
        ``GuestOwner.open_session``. ``SevError`` INVALID_CERTIFICATE as in ``build``, HWERROR_PLATFORM for a drawn key
        of zero; ``InputError`` for a policy outside 32 bits."""
        rng = OsRandom() if rng is None else rng
        peer, policy = _peer_point(pdh_certificate), Policy(policy)
        key = draw_private(rng, "GODH")
        tek, tik, nonce, wrap_iv = (rng.draw(16, what) for what in ("TEK", "TIK", "NONCE", "WRAP_IV"))
        session = cls.build(key, peer, policy, tek=tek, tik=tik, nonce=nonce, wrap_iv=wrap_iv)
        godh = new_certificate(Usage.PDH, Algo.ECDH_SHA256, key.public, api)
        return Opened(godh, session, policy, tek, tik)

    def open(
        self, pdh_private_key: PrivateLike, godh_certificate: Peer, policy: int, *, api: ApiVersion = (0, 24)
    ) -> Channel:
        """The firmware's side: keys of the channel, or ``SevError`` of the first rule broken, in this order.

        The peer's certificate is a sane PDH with a point on P-384 (INVALID_CERTIFICATE); WRAP_MAC, then POLICY_MAC over
        the ``policy`` that the command names (BAD_MEASUREMENT); ``api``, the firmware's own version, satisfies the
        policy's minimum, then bits 15:6 of the policy are zero (POLICY_FAILURE). A bare point in place of the
        certificate is checked as a point only. SEV API 55766, "LAUNCH_START"."""
        policy = Policy(policy)
        ms = master_secret(ecdh(pdh_private_key, _peer_point(godh_certificate)), self.nonce)
        kek, kik = key_wrap_keys(ms)
        mac = hmac_sha256(kik, self.wrap_tk)
        require_mac(mac, self.wrap_mac, "WRAP_MAC does not match WRAP_TK under this key agreement")
        keys = TransportKeys.parse(aes_ctr(kek, self.wrap_iv, self.wrap_tk))
        mac = hmac_sha256(keys.tik, PolicyMacInput(policy=policy).pack())
        require_mac(mac, self.policy_mac, "POLICY_MAC does not match POLICY under the session's TIK")
        require_policy(policy, api)
        return Channel(keys.tek, keys.tik, ms, self.nonce)


def require_policy(policy: Policy, api: ApiVersion) -> None:
    """Check that firmware of version ``api`` (major, minor) may hold a guest under ``policy``.

    ``SevError`` POLICY_FAILURE if it is older than the policy's minimum, or if bits 15:6 of the policy are not zero.
    SEV API 55766, "Guest policy"."""
    if not policy.allows_api(*api):
        wanted, own = ("{}.{}".format(*version) for version in (policy.api, api))
        raise SevError(Status.POLICY_FAILURE, f"POLICY wants API {wanted} or later, firmware is {own}")
    if policy.reserved:
        raise SevError(Status.POLICY_FAILURE, f"POLICY bits 15:6 must be zero, found 0x{policy.reserved:04X}")


def _peer_point(peer: Peer) -> Point:
    if isinstance(peer, SevCertificate):
        check_peer(peer)
    return as_point(peer)


# ---------------------------------------------------------------------------------------------- packets


class Context(IntEnum):
    """First byte of a packet's MAC input, by the specification one for each kind of packet.

    Firmware under the switch ``vmsa_packet_context`` 2 (GENOA_1_55_25) uses 2 for VMSA packets too: there a packet of
    one passes for a packet of the other."""

    SECRET = 1
    DATA = 2
    VMSA = 3


COMPRESSED = 1


class PacketHeader(Layout, size=0x34):
    """Header of the packets of LAUNCH_SECRET, SEND_UPDATE_* and RECEIVE_UPDATE_*, 52 bytes.

    SEV API 55766, "LAUNCH_SECRET". Integers are little-endian. Offset, size in bytes, field:

        0x00  4  flags  bit 0: COMPRESSED; the others are authenticated, otherwise not looked at
        0x04 16  iv     first counter block of the data's encryption
        0x14 32  mac    HMAC-SHA-256 under TIK
    """

    flags = u32(0x00, "bit 0: COMPRESSED; the others are authenticated, otherwise not looked at")
    iv = raw(0x04, 16, "first counter block of the data's encryption")
    mac = raw(0x14, 32, "HMAC-SHA-256 under TIK")


class PacketMacInput(Layout):
    """What a packet's MAC authenticates: 29 bytes, then the ciphertext.

    Not where in the guest it goes, nor which packets came before. SEV API 55766, "LAUNCH_SECRET". Integers are
    little-endian."""

    context = u8(0x00, "1 secret, 2 data, 3 VMSA", names=Context)
    flags = u32(0x01, "FLAGS of the header")
    iv = raw(0x05, 16, "IV of the header")
    guest_len = u32(0x15, "bytes in guest memory")
    trans_len = u32(0x19, "bytes of ciphertext")
    data = raw(0x1D, lambda obj: int(obj.trans_len), "the ciphertext")


class SecretMacInput(PacketMacInput):
    """What the MAC of a LAUNCH_SECRET packet authenticates from API 0.17 on: as other packets, then MEASURE.

    The 32 bytes of this launch's measurement bind the packet to one launch (SEV API 55766, "LAUNCH_SECRET")."""

    measure = raw(AFTER, 32, "MEASURE of this launch, without MNONCE")


def packet_mac(
    tik: bytes,
    context: int,
    flags: int,
    iv: bytes,
    guest_len: int,
    trans_len: int,
    data: bytes,
    trailer: bytes = b"",
) -> bytes:
    """MAC of a packet, 32 bytes, over ``data``, its ciphertext of ``trans_len`` bytes.

    ``tik`` and ``iv`` have 16 bytes, ``context`` is a ``Context``. ``trailer`` is empty except for LAUNCH_SECRET: see
    ``secret_trailer``. ``InputError`` for sizes that do not fit. SEV API 55766, "LAUNCH_SECRET"."""
    if len(tik) != 16:
        raise InputError("TIK", "16 bytes", f"{len(tik)} bytes")
    covered: dict[str, int | bytes] = {
        "context": context,
        "flags": flags,
        "iv": iv,
        "guest_len": guest_len,
        "trans_len": trans_len,
        "data": data,
    }
    message = SecretMacInput(**covered, measure=trailer) if trailer else PacketMacInput(**covered)
    return hmac_sha256(tik, message.pack())


def secret_trailer(measure: bytes, api: ApiVersion) -> bytes:
    """What ends the MAC input of a LAUNCH_SECRET packet for firmware of version ``api``.

    From API 0.17 on this launch's MEASURE (32 bytes, without MNONCE), which binds the packet to the launch;
    before that nothing."""
    return b"" if tuple(api) < FIRST_API_WITH_CONTEXT else measure


def make_packet(
    tek: bytes, tik: bytes, context: int, plaintext: bytes, *, iv: bytes, flags: int = 0, trailer: bytes = b""
) -> tuple[PacketHeader, bytes]:
    """Header (52 bytes) and ciphertext of a packet: encrypt under TEK, then MAC under TIK.

    ``tek``, ``tik`` and ``iv`` have 16 bytes each (else ``InputError``); each packet needs a new ``iv``. ``context`` is
    a ``Context``, ``trailer`` as in ``packet_mac``. The plaintext is not padded."""
    data, size = aes_ctr(tek, iv, plaintext), len(plaintext)
    mac = packet_mac(tik, context, flags, iv, size, size, data, trailer)
    return PacketHeader(flags=flags, iv=iv, mac=mac), data


def open_packet(
    tek: bytes, tik: bytes, context: int, header: PacketHeader, data: bytes, *, trailer: bytes = b""
) -> bytes:
    """Plaintext of a packet, or ``SevError`` of the first rule broken.

    BAD_MEASUREMENT if the MAC is wrong, UNSUPPORTED if FLAGS.COMPRESSED is set. LAUNCH_SECRET looks at the MAC before
    the flag, RECEIVE_UPDATE_* at the flag before the MAC. The MAC covers the ciphertext only: the right TIK with a
    wrong TEK gives rubbish. No length is refused here."""
    if context != Context.SECRET:
        require_uncompressed(header)
    require_packet_mac(tik, context, header, data, trailer=trailer)
    require_uncompressed(header)
    return aes_ctr(tek, header.iv, data)


def require_packet_mac(tik: bytes, context: int, header: PacketHeader, data: bytes, *, trailer: bytes = b"") -> None:
    """Check that the header's MAC is that of this ciphertext under TIK.

    ``SevError`` BAD_MEASUREMENT otherwise."""
    size = len(data)
    mac = packet_mac(tik, context, header.flags, header.iv, size, size, data, trailer)
    require_mac(mac, header.mac, "the packet's MAC does not match")


def require_uncompressed(header: PacketHeader) -> None:
    """Check that FLAGS.COMPRESSED is not set: no known firmware inflates.

    ``SevError`` UNSUPPORTED otherwise."""
    if header.flags & COMPRESSED:
        raise SevError(Status.UNSUPPORTED, "FLAGS.COMPRESSED is set: compressed packets are not supported")


# ---------------------------------------------------------------------------------------------- secret table

#: GUID of the table that guest firmware and Linux look for in the secret area.
SECRET_TABLE_GUID = uuid.UUID("1e74f542-71dd-4d66-963e-ef4287ff173b")
#: GUID of the entry with the passphrase of the root disk.
DISK_KEY_GUID = uuid.UUID("736869e5-84f0-4973-92ec-06879ce3da0b")
#: Most bytes that LAUNCH_SECRET takes by the specification.
SECRET_LIMIT = 0x4000


class SecretTableHeader(Layout, size=0x14):
    """Head of the secret table, 20 bytes; the length is little-endian.

    A convention between guest owner and guest, unknown to the SEV firmware."""

    guid = raw(0x00, 16, f"{SECRET_TABLE_GUID} in EFI byte order", default=SECRET_TABLE_GUID.bytes_le)
    length = u32(0x10, "bytes of head and entries, without the padding behind them")


class SecretEntry(Layout):
    """One secret of the table, 20 bytes and the data; a deleted one has a GUID of zeros."""

    guid = raw(0x00, 16, "what the secret is for, in EFI byte order")
    length = u32(0x10, "bytes of this entry: 20 + size of the data")
    data = raw(0x14, lambda obj: max(0, obj.length - 20), "the secret", secret=True)


GuidLike = uuid.UUID | str
SecretEntries = Mapping[GuidLike, bytes] | Iterable[tuple[GuidLike, bytes]]


def pad16(data: bytes) -> bytes:
    """``data`` with zeros up to a multiple of 16, none if it is one: LAUNCH_SECRET takes no other lengths."""
    return data + bytes(-len(data) % 16)


def build_secret_table(entries: SecretEntries) -> bytes:
    """Secret table with ``entries`` (GUID -> data, or pairs in order), zero-padded to a multiple of 16 bytes.

    GUIDs are ``UUID`` objects or text, written in EFI byte order. ``InputError`` for text that is not a GUID, and for
    the GUID of zeros, which marks a deleted entry.

        >>> from sevref.transport import build_secret_table, parse_secret_table
        >>> table = build_secret_table({"736869e5-84f0-4973-92ec-06879ce3da0b": b"passphrase"})
        >>> len(table), parse_secret_table(table)[0][1]
        (64, b'passphrase')
    """
    body = b""
    for name, data in entries.items() if isinstance(entries, Mapping) else entries:
        try:
            guid = name if isinstance(name, uuid.UUID) else uuid.UUID(name)
        except ValueError:
            raise InputError("secret table: GUID", f"a GUID such as {DISK_KEY_GUID}", repr(name)) from None
        if not guid.int:
            raise InputError("secret table: GUID", "not all zeros, which marks a deleted entry", str(guid))
        body += SecretEntry(guid=guid.bytes_le, length=SecretTableHeader.SIZE + len(data), data=data).pack()
    return pad16(SecretTableHeader(length=SecretTableHeader.SIZE + len(body)).pack() + body)


def parse_secret_table(data: bytes) -> list[tuple[uuid.UUID, bytes]]:
    """Pairs (GUID, secret) of the table at the start of ``data``, the secret area, by the rules of Linux.

    Deleted entries are left out. ``InputError`` if the GUID of the head, the total length (20 to the size of the area)
    or the length of an entry (20 to the bytes left) is wrong."""
    head = SecretTableHeader.parse(data, exact=False)
    if head.guid != SECRET_TABLE_GUID.bytes_le:
        raise InputError("secret table: GUID", str(SECRET_TABLE_GUID), str(uuid.UUID(bytes_le=head.guid)))
    if not head.SIZE <= head.length <= len(data):
        raise InputError("secret table: total length", f"{head.SIZE} to {len(data)}", head.length)
    found, position = [], head.SIZE
    while position < head.length:
        left = data[position : head.length]
        where = f"secret table: entry at 0x{position:X}"
        length = SecretTableHeader.parse(left, exact=False, where=where).length
        if not head.SIZE <= length <= len(left):
            raise InputError(f"{where}: length", f"{head.SIZE} to {len(left)}", length)
        entry = SecretEntry.parse(left[:length])
        if any(entry.guid):
            found.append((uuid.UUID(bytes_le=entry.guid), entry.data))
        position += length
    return found
