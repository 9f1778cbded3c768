"""AMD certificate format: ARK and ASK, the two RSA keys at the top of every platform's chain.

64 fixed bytes, then exponent and modulus of as many bits as two of the fixed fields say, then the signature:
832 bytes for 2048 bits (Naples), 1600 for 4096 (Rome and later). There is no length field, no algorithm field
and no validity date (SEV API 55766, appendix "AMD certificate format"). All integers are little-endian, the
signature too: it is the byte-reversed form of what PKCS#1 says.
"""

from __future__ import annotations

import hashlib

from sevref.certs.sev import Algo, RsaKey, SigningKey, Usage
from sevref.crypto import RsaPublic
from sevref.generations import Generation
from sevref.layout import AFTER, Layout, integer, raw, reserved, u32
from sevref.status import InputError, SevError, Status

AMD_SIZES = (2048, 4096)  #: bits that a valid certificate may state for exponent and modulus
#: bytes of an ASK and ARK bundle as SEND_START takes it: 2048/2048, 4096/2048, 2048/4096, 4096/4096 bits
AMD_CHAIN_LENGTHS = (1664, 2176, 2688, 3200)
_FIXED = 64
_LARGEST = 1600


class AmdSignedPart(Layout):
    """What the signature of an AMD certificate covers: everything before it.

    576 bytes of a 2048-bit certificate, 1088 of a 4096-bit one, 832 where exponent and modulus differ in size.
    """

    version = u32(0x00, "format version, 1")
    key_id = raw(0x04, 16, "identifier of the key in this certificate: opaque bytes, not derived from the key")
    certifying_id = raw(0x14, 16, "KEY_ID of the key that signed this certificate; its own in an ARK")
    key_usage = u32(0x24, "0x00 ARK, 0x13 ASK", names=Usage)
    reserved = reserved(0x28, 16, "zero in all real certificates; signed, never compared with zero")
    pubexp_size = u32(0x38, "bits of the exponent's field: 2048 or 4096")
    modulus_size = u32(0x3C, "bits of the modulus: 2048 or 4096")
    pubexp = integer(0x40, lambda cert: cert.pubexp_size // 8, "public exponent, zero padded (65537 in every real one)")
    modulus = integer(AFTER, lambda cert: cert.modulus_size // 8, "modulus")


_SIGNED_FIELDS = AmdSignedPart.fields


class AmdCertificate(AmdSignedPart):
    """AMD certificate (ARK or ASK), 64 + E + 2M bytes with E = PUBEXP_SIZE/8 and M = MODULUS_SIZE/8.

    832 bytes for 2048 bits (Naples), 1600 for 4096 bits (SEV API 55766, appendix "AMD certificate format"). Integers,
    the signature too, are little-endian. Offset, size in bytes, field:

        0x00       4  version        format version, 1
        0x04      16  key_id         identifier of the key in this certificate: opaque bytes, not derived from the key
        0x14      16  certifying_id  KEY_ID of the key that signed this certificate; its own in an ARK
        0x24       4  key_usage      0x00 ARK, 0x13 ASK
        0x28      16  reserved       zero in all real certificates; signed, never compared with zero
        0x38       4  pubexp_size    bits of the exponent's field: 2048 or 4096
        0x3C       4  modulus_size   bits of the modulus: 2048 or 4096
        0x40       E  pubexp         public exponent, zero padded (65537 in every real one)
        0x40+E     M  modulus        modulus
        0x40+E+M   M  signature      RSASSA-PSS signature by the key CERTIFYING_ID
    """

    signature = integer(AFTER, lambda cert: cert.modulus_size // 8, "RSASSA-PSS signature by the key CERTIFYING_ID")

    def signed_bytes(self) -> bytes:
        """The bytes before the signature: what it covers, and what the fused root hash is the hash of."""
        return b"".join([field.encode(self) for field in _SIGNED_FIELDS])

    @property
    def signature_int(self) -> int:
        """The signature as the integer that PKCS#1 calls s."""
        return self.signature

    @property
    def public(self) -> RsaPublic:
        """The key as numbers; ``bits`` is MODULUS_SIZE as it is stated."""
        return RsaPublic(self.modulus, self.pubexp, self.modulus_size)

    @property
    def sha256(self) -> str:
        """SHA-256 of the whole certificate in hex, as people compare it."""
        return hashlib.sha256(self.pack()).hexdigest()

    def root_hash(self, generation: Generation) -> bytes:
        """Hash of the signed bytes with the generation's hash: what a chip holds of its ARK.

        32 bytes (SHA-256, Naples) or 48 (SHA-384).
        """
        return hashlib.new(generation.amd_hash, self.signed_bytes()).digest()

    def signing_key(self, generation: Generation) -> SigningKey:
        """The key as it enters the check of a CEK: usage 0x13, the generation's algorithm, RSA layout."""
        return SigningKey(Usage.ASK, Algo(generation.ask_algo), RsaKey.of(self.public))

    @classmethod
    def parse_prefix(cls, data: bytes, where: str = "") -> AmdCertificate:
        """The certificate at the beginning of ``data``, as the firmware reads it out of a chain buffer.

        Whatever its size fields say, bytes behind the end of ``data`` read as zero and bytes left over are not looked
        at. ``InputError`` if the fixed part (64 bytes) is incomplete or the stated size exceeds 1600 bytes.
        """
        if len(data) < _FIXED:
            raise InputError(f"{where}: AMD certificate" if where else "AMD certificate", "64 bytes or more", len(data))
        stated = stated_size(data)
        if stated > _LARGEST:
            raise InputError(
                f"{where}: AMD certificate" if where else "AMD certificate",
                "PUBEXP_SIZE and MODULUS_SIZE for at most 1600 bytes",
                f"sizes for {stated} bytes",
            )
        return cls.parse(data[:stated].ljust(stated, b"\0"))


def stated_sizes(data: bytes) -> tuple[int, int]:
    """PUBEXP_SIZE and MODULUS_SIZE, in bits, of the AMD certificate at the beginning of ``data``.

    ``data`` holds at least its first 64 bytes.
    """
    return int.from_bytes(data[0x38:0x3C], "little"), int.from_bytes(data[0x3C:0x40], "little")


def stated_size(data: bytes) -> int:
    """Bytes that the certificate at the beginning of ``data`` (64 bytes or more) says it has."""
    exponent, modulus = stated_sizes(data)
    return _FIXED + exponent // 8 + 2 * (modulus // 8)


def read_amd_chain(data: bytes) -> tuple[AmdCertificate, AmdCertificate]:
    """ASK and ARK out of the AMD certificate buffer of SEND_START, in the firmware's order of checks.

    ``SevError`` INVALID_LENGTH if the length is not one of 1664, 2176, 2688, 3200 bytes; INVALID_CERTIFICATE if a
    certificate's sizes do not fit 1600 bytes, or the ARK does not end within the buffer. The ARK is looked for behind
    the size that the *ASK* states; bytes behind the ARK are not looked at (SEV API 55766, "SEND_START").
    """
    if len(data) not in AMD_CHAIN_LENGTHS:
        raise SevError(Status.INVALID_LENGTH, f"AMD_CERTS_LEN is {len(data)}, not 1664, 2688, 2176 or 3200")
    found = []
    rest = data
    for name in ("ASK", "ARK"):
        rest = rest.ljust(_FIXED, b"\0")
        exponent, modulus = stated_sizes(rest)
        if modulus // 8 >= _LARGEST or exponent // 8 >= _LARGEST or stated_size(rest) > _LARGEST:
            raise SevError(Status.INVALID_CERTIFICATE, f"{name}: PUBEXP_SIZE and MODULUS_SIZE exceed 1600 bytes")
        if stated_size(rest) > len(rest):  # real firmware reads on in what an earlier command left there
            raise SevError(Status.INVALID_CERTIFICATE, f"{name}: its size fields lead beyond AMD_CERTS_LEN")
        found.append(AmdCertificate.parse_prefix(rest))
        rest = rest[stated_size(rest) :]
    return found[0], found[1]
