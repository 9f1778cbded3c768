"""The persistent store: identity in flash, encrypted and bound to the chip (SEV API 55766, "INIT_EX").

Stored form, 0x24C4 bytes: ciphertext (0x2494) || HMAC-SHA-256 of ciphertext and IV (32) || IV (16); the rest of the
32 KiB medium is 0xFF. Both keys come from the chip unique key, so another chip's store fails like a corrupted one. How
the real boot loader derives these two keys is not published; the derivation here is a model.
"""

from __future__ import annotations

from typing import Protocol

from sevref.certs import SevCertificate
from sevref.crypto import PrivateKey, RandomSource, aes_ctr, hmac_sha256, kdf
from sevref.firmware.identity import Identity
from sevref.layout import Layout, integer, nested, raw, reserved, u8, u32, union
from sevref.machine import FLASH_SIZE
from sevref.status import SevError, Status

MEDIUM_SIZE = FLASH_SIZE
BLOCK = 0x1000
EMPTY = b"\xff\xff\xff\xff"


class KeyPairRecord(Layout, size=0x40C):
    """A P-384 key pair in the persistent record, 1036 bytes; coordinates and scalar little-endian in 72 bytes each."""

    usage = u32(0x000, "key usage")
    algo = u32(0x004, "key algorithm")
    curve = u32(0x008, "2: P-384")
    qx = integer(0x00C, 72, "X coordinate of the public key")
    qy = integer(0x054, 72, "Y coordinate of the public key")
    d = integer(0x09C, 72, "private scalar", secret=True)
    reserved_e4 = reserved(0x0E4, 0x40C - 0xE4)


class IdentityRecord(Layout, size=0x2494):
    """The plain record of the persistent store, 9364 bytes: OCA, PEK and PDH with their private keys."""

    pdh_key = nested(0x0000, KeyPairRecord, "PDH key pair")
    pdh_cert = raw(0x040C, 0x824, "PDH certificate")
    pek_key = nested(0x0C30, KeyPairRecord, "PEK key pair")
    pek_cert = raw(0x103C, 0x824, "PEK certificate")
    owner = u8(0x1860, "1: externally owned")
    reserved_1861 = reserved(0x1861, 3)
    oca_key = union(
        0x1864, 0x40C, lambda record: None if record.owner else KeyPairRecord, "OCA key pair, or the owner's public key"
    )
    oca_cert = raw(0x1C70, 0x824, "OCA certificate")


class StoredRecord(Layout, size=0x24C4):
    """The record as it lies on the medium, 9412 bytes: encrypted, then authenticated."""

    ciphertext = raw(0x0000, IdentityRecord.SIZE, "AES-128-CTR of the plain record, first counter block = IV")
    mac = raw(0x2494, 32, "HMAC-SHA-256 of ciphertext || IV")
    iv = raw(0x24B4, 16, "random; its first 4 bytes are never all FF")


class Medium(Protocol):
    """32 KiB that survive a power cycle: SPI flash, or the host's NV buffer."""

    def read(self) -> bytes:
        """The whole medium, 32768 bytes."""

    def write(self, record: bytes) -> None:
        """Put ``record`` at the start."""

    def erase(self) -> None:
        """Fill the medium with FF."""


class Flash:
    """SPI flash. A write replaces only the blocks that the record needs; erased bytes are FF."""

    def __init__(self, cells: bytearray) -> None:
        self._cells = cells

    def read(self) -> bytes:
        """The whole flash, 32768 bytes."""
        return bytes(self._cells)

    def write(self, record: bytes) -> None:
        """Put ``record`` at the start; the rest of its last block of 4096 bytes becomes FF."""
        used = -(-len(record) // BLOCK) * BLOCK
        self._cells[:used] = record.ljust(used, b"\xff")

    def erase(self) -> None:
        """Fill the flash with FF."""
        self._cells[:] = b"\xff" * len(self._cells)


class Store:
    """Encrypts, authenticates and loads an identity on a medium."""

    def __init__(self, medium: Medium, chip_key: bytes) -> None:
        self._medium = medium
        # AMD counts these labels with their terminating NUL.
        self._encryption = kdf(chip_key, b"sev-persistent-encryption\0", bytes(4), 16)
        self._integrity = kdf(chip_key, b"sev-persistent-integrity\0", bytes(4), 16)

    def load(self) -> Identity | None:
        """The stored identity, None from an empty medium (first 4 bytes FF).

        ``SevError`` SECURE_DATA_INVALID if the record does not authenticate; the medium has then been erased, so that
        repeating the command starts afresh.
        """
        data = self._medium.read()
        if data[:4] == EMPTY:
            return None
        stored = StoredRecord.parse(data[: StoredRecord.SIZE])
        # A record of old firmware has no IV of its own: it counts as zero and is not authenticated.
        authenticated, iv = (b"", bytes(16)) if stored.iv[:4] == EMPTY else (stored.iv, stored.iv)
        if hmac_sha256(self._integrity, stored.ciphertext + authenticated) != stored.mac:
            self._medium.erase()
            raise SevError(Status.SECURE_DATA_INVALID, "the persistent store does not authenticate; it was erased")
        return _unpack(IdentityRecord.parse(aes_ctr(self._encryption, iv, stored.ciphertext)))

    def save(self, identity: Identity, rng: RandomSource) -> None:
        """Write the identity; draws the 16-byte IV, again while its first 4 bytes are all FF."""
        while (iv := rng.draw(16, "store IV"))[:4] == EMPTY:
            pass
        ciphertext = aes_ctr(self._encryption, iv, _pack(identity).pack())
        record = StoredRecord(ciphertext=ciphertext, mac=hmac_sha256(self._integrity, ciphertext + iv), iv=iv)
        self._medium.write(record.pack())

    def erase(self) -> None:
        """Forget the identity: the next INIT makes a new one."""
        self._medium.erase()


def _key_record(key: PrivateKey, cert: SevCertificate) -> KeyPairRecord:
    x, y = key.public
    return KeyPairRecord(usage=cert.pubkey_usage, algo=cert.pubkey_algo, curve=2, qx=x, qy=y, d=key.d)


def _pack(identity: Identity) -> IdentityRecord:
    oca: KeyPairRecord | bytes
    if identity.oca_key is None:
        oca = identity.oca.pack()[0x08:0x414]  # usage, algorithm and public key as in the certificate
    else:
        oca = _key_record(identity.oca_key, identity.oca)
    return IdentityRecord(
        pdh_key=_key_record(identity.pdh_key, identity.pdh),
        pdh_cert=identity.pdh.pack(),
        pek_key=_key_record(identity.pek_key, identity.pek),
        pek_cert=identity.pek.pack(),
        owner=int(identity.external),
        oca_key=oca,
        oca_cert=identity.oca.pack(),
    )


def _unpack(record: IdentityRecord) -> Identity:
    return Identity(
        oca_key=None if record.owner else PrivateKey(record.oca_key.d),
        oca=SevCertificate.parse(record.oca_cert),
        pek_key=PrivateKey(record.pek_key.d),
        pek=SevCertificate.parse(record.pek_cert),
        pdh_key=PrivateKey(record.pdh_key.d),
        pdh=SevCertificate.parse(record.pdh_cert),
    )
