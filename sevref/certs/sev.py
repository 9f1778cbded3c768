"""SEV certificate format v1: CEK, OCA, PEK, PDH and the guest owner's GODH.

2084 bytes: a body of 1044 bytes and two signature slots of 520 bytes each (SEV API 55766, appendix "SEV
certificate format"). All integers are little-endian. Every signature, in either slot and by whatever key,
covers exactly the body; the slots do not cover each other, so adding or removing one signature does not
disturb the other.

A slot is *empty* if its usage is 0x1000 and its algorithm 0. A slot that is all zero is not empty: it claims
to be made by an ARK (usage 0) with no algorithm, and the whole certificate fails with BAD_SIGNATURE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

from sevref.crypto import OsRandom, Point, PrivateKey, RsaPrivate, RsaPublic, ecdsa_sign, rsa_pss_sign
from sevref.layout import AFTER, Layout, integer, reserved, u8, u32, union
from sevref.status import InputError, SevError, Status

CERT_SIZE = 0x824  #: bytes of a SEV certificate
BODY_SIZE = 0x414  #: bytes that every signature covers
SLOT_SIZE = 0x208  #: bytes of one signature slot


class Usage(IntEnum):
    """What a key is for: PUBKEY_USAGE, and in a slot the usage of the key that signed (4 bytes)."""

    ARK = 0x0000
    ASK = 0x0013
    INVALID = 0x1000
    OCA = 0x1001
    PEK = 0x1002
    PDH = 0x1003
    CEK = 0x1004


class Algo(IntEnum):
    """Algorithm of a key or of a signature (4 bytes); 0x1xx means SHA-384, 0x00x SHA-256."""

    INVALID = 0x000
    RSA_SHA256 = 0x001
    ECDSA_SHA256 = 0x002
    ECDH_SHA256 = 0x003
    RSA_SHA384 = 0x101
    ECDSA_SHA384 = 0x102
    ECDH_SHA384 = 0x103


class Curve(IntEnum):
    """CURVE of an EC key. Only P-384 is ever accepted (code 1 also stands for secp256k1 in one firmware)."""

    INVALID = 0
    P256 = 1
    P384 = 2


RSA_ALGOS = frozenset({0x001, 0x101})
ECDSA_ALGOS = frozenset({0x002, 0x102})
ECDH_ALGOS = frozenset({0x003, 0x103})


def hash_name(algo: int) -> str:
    """Digest of a signature algorithm, as ``hashlib`` calls it."""
    return "sha384" if algo & 0x100 else "sha256"


@lru_cache(maxsize=64)
def usage_name(usage: int) -> str:
    """``PEK (0x1002)``, or the bare number of an unknown usage."""
    return f"{Usage(usage).name} (0x{usage:04X})" if usage in Usage._value2member_map_ else f"0x{usage:X}"


@lru_cache(maxsize=64)
def algo_name(algo: int) -> str:
    """``ECDSA_SHA256 (0x002)``, or the bare number of an unknown algorithm."""
    return f"{Algo(algo).name} (0x{algo:03X})" if algo in Algo._value2member_map_ else f"0x{algo:X}"


# ---------------------------------------------------------------------------- keys and signatures


def _rsa_bytes(key: RsaKey) -> int:
    return int(min(key.modulus_size // 8, 512))


class RsaKey(Layout):
    """RSA public key of a SEV certificate, 1028 bytes (SEV API 55766, appendix "SEV certificate format").

    Only the first MODULUS_SIZE/8 bytes of the two 512-byte fields count, little-endian; the rest is filler that nothing
    reads."""

    modulus_size = u32(0x000, "bits of the modulus, at most 4096")
    pubexp = integer(0x004, _rsa_bytes, "public exponent; MODULUS_SIZE/8 bytes of it are read")
    pubexp_filler = reserved(AFTER, lambda key: 512 - _rsa_bytes(key), "rest of the exponent's 512 bytes, zero")
    modulus = integer(AFTER, _rsa_bytes, "modulus; MODULUS_SIZE/8 bytes of it are read")
    modulus_filler = reserved(AFTER, lambda key: 512 - _rsa_bytes(key), "rest of the modulus' 512 bytes, zero")

    @classmethod
    def of(cls, key: RsaPublic) -> RsaKey:
        """The layout of a key; ``InputError`` if it does not fit 4096 bits."""
        if key.bits > 4096 or key.n >> 4096 or key.e >> 4096:
            raise InputError("RSA key", "at most 4096 bits", f"{max(key.bits, key.n.bit_length())} bits")
        size = min(key.bits // 8, 512)
        low = (1 << 8 * size) - 1
        return cls(
            modulus_size=key.bits,
            pubexp=key.e & low,
            pubexp_filler=(key.e >> 8 * size).to_bytes(512 - size, "little"),
            modulus=key.n & low,
            modulus_filler=(key.n >> 8 * size).to_bytes(512 - size, "little"),
        )

    @property
    def public(self) -> RsaPublic:
        """The key as numbers; ``bits`` is MODULUS_SIZE as it is stated."""
        return RsaPublic(self.modulus, self.pubexp, self.modulus_size)


class EcKey(Layout, size=0x404):
    """EC public key of a SEV certificate, for ECDSA and ECDH alike, 1028 bytes.

    A coordinate fills 72 bytes, of which 48 count: read as one little-endian integer, nonzero padding makes it too
    large for the field and the key invalid (SEV API 55766, appendix "SEV certificate format"). Offset, size in bytes,
    field:

        0x000   4  curve   curve: 2 is P-384, the only one accepted
        0x004  72  qx      X coordinate: 48 significant bytes, then 24 zero bytes
        0x04C  72  qy      Y coordinate: 48 significant bytes, then 24 zero bytes
        0x094 880  filler  rest of the union, zero; no rule reads it, the signatures cover it
    """

    curve = u32(0x000, "curve: 2 is P-384, the only one accepted", names=Curve)
    qx = integer(0x004, 72, "X coordinate: 48 significant bytes, then 24 zero bytes")
    qy = integer(0x04C, 72, "Y coordinate: 48 significant bytes, then 24 zero bytes")
    filler = reserved(0x094, 880, "rest of the union, zero; no rule reads it, the signatures cover it")

    @property
    def point(self) -> Point:
        """The coordinates as integers, whether or not they are a point of the curve."""
        return Point(self.qx, self.qy)


class RsaSignature(Layout, size=0x200):
    """RSASSA-PSS signature in a slot, 512 bytes.

    The integer that PKCS#1 writes big-endian, here little-endian."""

    value = integer(0x00, 512, "the first (signer's MODULUS_SIZE)/8 bytes count, the rest is zero and never read")


class EcdsaSignature(Layout, size=0x200):
    """ECDSA signature in a slot, 512 bytes.

    All 72 bytes of r and s, little-endian, take part in the range check. Offset, size in bytes, field:

        0x000  72  r       r: 48 significant bytes, then 24 zero bytes
        0x048  72  s       s: 48 significant bytes, then 24 zero bytes
        0x090 368  filler  rest of the slot, zero; no rule reads it, no signature covers it
    """

    r = integer(0x00, 72, "r: 48 significant bytes, then 24 zero bytes")
    s = integer(0x48, 72, "s: 48 significant bytes, then 24 zero bytes")
    filler = reserved(0x90, 368, "rest of the slot, zero; no rule reads it, no signature covers it")


def _key_layout(algo: int) -> type[Layout] | None:
    if algo in RSA_ALGOS:
        return RsaKey
    return EcKey if algo in ECDSA_ALGOS or algo in ECDH_ALGOS else None


def _signature_layout(algo: int) -> type[Layout] | None:
    if algo in RSA_ALGOS:
        return RsaSignature
    return EcdsaSignature if algo in ECDSA_ALGOS else None


class SignatureSlot(Layout, size=SLOT_SIZE):
    """One signature with the usage and algorithm of the key that made it, 520 bytes.

    A certificate has two, at 0x414 and 0x61C. Offset, size in bytes, field:

        0x000   4  usage      usage of the key that made this signature; 0x1000 = no signature
        0x004   4  algo       its algorithm; 0 = no signature
        0x008 512  signature  the signature, by algorithm
    """

    usage = u32(0x000, "usage of the key that made this signature; 0x1000 = no signature", names=Usage)
    algo = u32(0x004, "its algorithm; 0 = no signature", names=Algo)
    signature = union(0x008, 512, lambda slot: _signature_layout(slot.algo), "the signature, by algorithm")

    @property
    def free(self) -> bool:
        """Whether a signature may be put here: usage 0x1000; algorithm and data are not looked at."""
        return self.usage == Usage.INVALID

    @property
    def well_formed(self) -> bool:
        """Empty (usage 0x1000 and algorithm 0) or used (neither)."""
        return (self.usage == Usage.INVALID) == (self.algo == Algo.INVALID)


@dataclass(frozen=True)
class SigningKey:
    """A public key as a signature check sees it: usage, algorithm and the 1028-byte union."""

    usage: int
    algo: int
    pubkey: RsaKey | EcKey | bytes

    def __str__(self) -> str:
        return f"{usage_name(self.usage)}, {algo_name(self.algo)}"


# ---------------------------------------------------------------------------- the certificate


class CertificateBody(Layout, size=BODY_SIZE):
    """What every signature of a SEV certificate covers: its first 1044 bytes.

    Offset, size in bytes, field:

        0x000    4  version       format version, 1
        0x004    1  api_major     API version of the firmware that made the certificate, major part
        0x005    1  api_minor     API version of the firmware that made the certificate, minor part
        0x006    2  reserved      reserved, zero
        0x008    4  pubkey_usage  what the key in this certificate is for
        0x00C    4  pubkey_algo   algorithm of the key in this certificate
        0x010 1028  pubkey        the public key, by algorithm
    """

    version = u32(0x000, "format version, 1")
    api_major = u8(0x004, "API version of the firmware that made the certificate, major part")
    api_minor = u8(0x005, "API version of the firmware that made the certificate, minor part")
    reserved = reserved(0x006, 2)
    pubkey_usage = u32(0x008, "what the key in this certificate is for", names=Usage)
    pubkey_algo = u32(0x00C, "algorithm of the key in this certificate", names=Algo)
    pubkey = union(0x010, 1028, lambda cert: _key_layout(cert.pubkey_algo), "the public key, by algorithm")


_BODY_FIELDS = CertificateBody.fields


class SevCertificate(CertificateBody, size=CERT_SIZE):
    """SEV certificate v1, 2084 bytes: CEK, OCA, PEK, PDH or GODH.

    SEV API 55766, appendix "SEV certificate format". Integers are little-endian. Offset, size in bytes, field:

        0x000    4  version       format version, 1
        0x004    1  api_major     API version of the firmware that made the certificate, major part
        0x005    1  api_minor     API version of the firmware that made the certificate, minor part
        0x006    2  reserved      reserved, zero
        0x008    4  pubkey_usage  what the key in this certificate is for
        0x00C    4  pubkey_algo   algorithm of the key in this certificate
        0x010 1028  pubkey        the public key, by algorithm
        0x414    4  sig1_usage    slot 1: usage of the key that made signature 1; 0x1000 = empty
        0x418    4  sig1_algo     slot 1: algorithm of signature 1; 0 = empty
        0x41C  512  sig1          signature 1 over the body
        0x61C    4  sig2_usage    slot 2: usage of the key that made signature 2; 0x1000 = empty
        0x620    4  sig2_algo     slot 2: algorithm of signature 2; 0 = empty
        0x624  512  sig2          signature 2 over the body

    ``parse`` takes any 2084 bytes (``InputError`` for another size) and checks nothing else; ``sevref.certs.validate``
    does."""

    sig1_usage = u32(0x414, "slot 1: usage of the key that made signature 1; 0x1000 = empty", names=Usage)
    sig1_algo = u32(0x418, "slot 1: algorithm of signature 1; 0 = empty", names=Algo)
    sig1 = union(0x41C, 512, lambda cert: _signature_layout(cert.sig1_algo), "signature 1 over the body")
    sig2_usage = u32(0x61C, "slot 2: usage of the key that made signature 2; 0x1000 = empty", names=Usage)
    sig2_algo = u32(0x620, "slot 2: algorithm of signature 2; 0 = empty", names=Algo)
    sig2 = union(0x624, 512, lambda cert: _signature_layout(cert.sig2_algo), "signature 2 over the body")

    def body(self) -> bytes:
        """The 1044 bytes 0x000 to 0x413, which every signature covers."""
        return b"".join([field.encode(self) for field in _BODY_FIELDS])

    @property
    def slots(self) -> tuple[SignatureSlot, SignatureSlot]:
        """Copies of the two slots."""
        return (
            SignatureSlot(usage=self.sig1_usage, algo=self.sig1_algo, signature=self.sig1),
            SignatureSlot(usage=self.sig2_usage, algo=self.sig2_algo, signature=self.sig2),
        )

    @property
    def public_point(self) -> Point:
        """The EC public key. ``InputError`` if the certificate holds another kind of key."""
        key = self.pubkey
        if not isinstance(key, EcKey):
            raise InputError("pubkey", "an EC key (algorithm 2, 3, 0x102 or 0x103)", algo_name(self.pubkey_algo))
        return key.point

    @property
    def unsigned(self) -> bool:
        """Whether both slots are free."""
        return self.sig1_usage == Usage.INVALID and self.sig2_usage == Usage.INVALID

    def signing_key(self) -> SigningKey:
        """The key in this certificate, for checking what it signed."""
        return SigningKey(self.pubkey_usage, self.pubkey_algo, self.pubkey)


def new_certificate(usage: int, algo: int, public: Point | RsaPublic, api: tuple[int, int]) -> SevCertificate:
    """Fresh, unsigned certificate: version 1, the API version of its maker, the key, both slots empty.

    ``api`` is (major, minor). ``InputError`` if the key is not of the algorithm's kind."""
    if isinstance(public, RsaPublic) != (algo in RSA_ALGOS):
        raise InputError("public key", f"a key for algorithm {algo_name(algo)}", type(public).__name__)
    key: Layout = (
        RsaKey.of(public) if isinstance(public, RsaPublic) else EcKey(curve=Curve.P384, qx=public.x, qy=public.y)
    )
    return SevCertificate(
        version=1,
        api_major=api[0],
        api_minor=api[1],
        pubkey_usage=int(usage),
        pubkey_algo=int(algo),
        pubkey=key,
        sig1_usage=int(Usage.INVALID),
        sig2_usage=int(Usage.INVALID),
    )


def make_signature(
    cert: SevCertificate,
    key: PrivateKey | RsaPrivate,
    usage: int,
    algo: int,
    *,
    nonce: Callable[[], int] | None = None,
    salt: bytes | None = None,
) -> SignatureSlot:
    """A filled slot: the signature of ``cert``'s body by ``key``; arguments as in ``sign_certificate``.

    ``InputError`` if the key is not of the algorithm's kind."""
    name = hash_name(algo)
    signature: Layout | None = None
    if isinstance(key, RsaPrivate) and algo in RSA_ALGOS:
        if salt is None:  # as long as the hash, like every real AMD signature
            salt = OsRandom().draw(48 if name == "sha384" else 32)
        signature = RsaSignature(value=rsa_pss_sign(key, cert.body(), salt, name))
    elif isinstance(key, PrivateKey) and algo in ECDSA_ALGOS:
        r, s = ecdsa_sign(key, cert.body(), name, nonce)
        signature = EcdsaSignature(r=r, s=s)
    if signature is None:
        raise InputError("signing key", f"a key for algorithm {algo_name(algo)}", type(key).__name__)
    return SignatureSlot(usage=int(usage), algo=int(algo), signature=signature)


def add_signature(cert: SevCertificate, slot: SignatureSlot | bytes) -> None:
    """Copy a whole 520-byte slot into the first free one (usage 0x1000), overwriting all 520 bytes.

    ``SevError`` INVALID_CERTIFICATE if neither slot is free."""
    if not isinstance(slot, SignatureSlot):
        slot = SignatureSlot.parse(slot)
    if cert.sig1_usage == Usage.INVALID:
        cert.sig1_usage, cert.sig1_algo, cert.sig1 = slot.usage, slot.algo, slot.signature
    elif cert.sig2_usage == Usage.INVALID:
        cert.sig2_usage, cert.sig2_algo, cert.sig2 = slot.usage, slot.algo, slot.signature
    else:
        raise SevError(Status.INVALID_CERTIFICATE, "no signature slot is free (usage 0x1000)")


def sign_certificate(
    cert: SevCertificate,
    key: PrivateKey | RsaPrivate,
    usage: int,
    algo: int,
    *,
    nonce: Callable[[], int] | None = None,
    salt: bytes | None = None,
) -> None:
    """Sign the body with ``key`` and put the signature into the first free slot.

    ``usage`` and ``algo`` are the signer's; ``nonce`` gives candidates for an ECDSA k (default RFC 6979), ``salt`` is
    the salt of an RSASSA-PSS signature (default: fresh, as long as the hash). ``SevError`` INVALID_CERTIFICATE if
    neither slot is free, ``InputError`` if the key is not of the algorithm's kind."""
    add_signature(cert, make_signature(cert, key, usage, algo, nonce=nonce, salt=salt))


def empty_slot() -> SignatureSlot:
    """A slot without a signature: usage 0x1000, algorithm 0, zeros."""
    return SignatureSlot(usage=int(Usage.INVALID))


def certificate_problems(cert: SevCertificate, signers: Mapping[int, SigningKey | None]) -> list[str]:
    """Bytes that no signature covers or no rule reads and that are not as they should be, in words.

    ``signers`` are the usages of the keys that may have signed this certificate, with the key where it is known."""
    found = []
    if any(cert.reserved):
        found.append("reserved bytes at 0x006 are not zero")
    found += [f"public key: {problem}" for problem in _key_filler(cert.pubkey)]
    slots = (1, cert.sig1_usage, cert.sig1), (2, cert.sig2_usage, cert.sig2)
    for number, usage, signature in slots:
        free = usage == Usage.INVALID
        if free and isinstance(signature, bytes) and signature.count(0) != 512:
            found.append(f"slot {number} is empty, but its 512 data bytes are not zero")
        if not free and usage not in signers:
            found.append(f"slot {number} names {usage_name(usage)}, which signs no certificate of this kind")
        if isinstance(signature, EcdsaSignature) and signature.filler.count(0) != 368:
            found.append(f"slot {number}: the 368 bytes behind s are not zero")
        key = signers.get(usage) if isinstance(signature, RsaSignature) else None
        if key is not None and isinstance(key.pubkey, RsaKey):
            used = min(key.pubkey.modulus_size // 8, 512)
            if signature.value >> 8 * used:
                found.append(f"slot {number}: bytes behind the signature's {used} are not zero")
    return found


def _key_filler(key: Any) -> list[str]:
    if isinstance(key, RsaKey):
        fillers = {"exponent": key.pubexp_filler, "modulus": key.modulus_filler}
        return [f"bytes behind the {name} are not zero" for name, data in fillers.items() if any(data)]
    if isinstance(key, EcKey) and key.filler.count(0) != 880:
        return ["bytes behind the coordinates are not zero"]
    return []
