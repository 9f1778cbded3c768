"""SEV's primitives with AMD's byte orders, and where randomness comes from.

Ciphers, hashes, curve arithmetic and every verification are the ``cryptography`` library's. What stands here is what
SEV does differently (a KDF with little-endian counters, little-endian integers) and what the library cannot be told:
an ECDSA nonce and a PSS salt chosen by the caller."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from sevref.status import InputError, SevError, Status

# ---------------------------------------------------------------------------------------------- symmetric

Hash = hashes.SHA256 | hashes.SHA384


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA-256, 32 bytes, never truncated; a key of any length."""
    return hmac.digest(key, message, "sha256")


def require_mac(expected: bytes, found: bytes, rule: str) -> None:
    """Compare all bytes of two MACs in constant time, whatever their contents.

    ``SevError`` BAD_MEASUREMENT with ``rule`` if they differ."""
    if not hmac.compare_digest(expected, found):
        raise SevError(Status.BAD_MEASUREMENT, rule)


def kdf(key: bytes, label: bytes, context: bytes = b"", size: int = 16) -> bytes:
    """Derive ``size`` bytes by SP 800-108 in counter mode with HMAC-SHA-256.

    Block i (from 1) is HMAC(key, i || label || 00 || context || L). Unlike everywhere else, i and L (the output length
    in bits) are 32-bit *little-endian*. A label that AMD counts with its terminating NUL is given with it. SEV API
    55766, "LAUNCH_START".

        >>> from sevref.crypto import kdf
        >>> kdf(bytes(16), b"sev-kek").hex()
        'fdae67eacd10f95890b0c3c1a972c47e'
    """
    bits = (8 * size).to_bytes(4, "little")
    blocks = (
        hmac_sha256(key, i.to_bytes(4, "little") + label + b"\0" + context + bits) for i in range(1, -(-size // 32) + 1)
    )
    return b"".join(blocks)[:size]


def aes_ctr(key: bytes, iv: bytes, data: bytes) -> bytes:
    """AES-128-CTR of ``data``; encrypts and decrypts alike.

    The 16-byte ``iv`` is the first counter block, one 128-bit big-endian integer that wraps. ``InputError`` for a key
    or an IV that is not 16 bytes."""
    if len(key) != 16 or len(iv) != 16:
        raise InputError("AES-128-CTR key and IV", "16 bytes each", f"{len(key)} and {len(iv)} bytes")
    cipher = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
    return cipher.update(data) + cipher.finalize()


# ---------------------------------------------------------------------------------------------- randomness


class RandomSource(Protocol):
    """Where random bytes come from; ``what`` names the draw, for traces and for error messages."""

    def draw(self, size: int, what: str = "") -> bytes:
        """The next ``size`` random bytes."""


class OsRandom:
    """The operating system's source: never the same twice."""

    def draw(self, size: int, what: str = "") -> bytes:
        """The next ``size`` random bytes."""
        return os.urandom(size)


class SeededRandom:
    """Deterministic stream of one party: SHA-256(seed || label || counter as u64 little-endian), counter from 0.

    Each party and platform has a label of its own, so that one more draw by one changes nothing of the others.

        >>> from sevref import SeededRandom
        >>> SeededRandom(b"seed", "guest owner").draw(8, "TEK").hex()
        '3bc2b0c2ac92ffd9'
    """

    def __init__(self, seed: bytes, label: str) -> None:
        self._prefix = seed + label.encode()
        self._counter = 0
        self._rest = b""

    def draw(self, size: int, what: str = "") -> bytes:
        """The next ``size`` bytes of the stream; ``what`` is not used."""
        while len(self._rest) < size:
            self._rest += hashlib.sha256(self._prefix + self._counter.to_bytes(8, "little")).digest()
            self._counter += 1
        chunk, self._rest = self._rest[:size], self._rest[size:]
        return chunk


class ReplayRandom:
    """A random source that hands out recorded chunks in order.

    ``InputError`` when a draw asks for another size than the recorded chunk has, or for more chunks than there are."""

    def __init__(self, chunks: Iterable[bytes] = ()) -> None:
        self._chunks = list(chunks)

    def refill(self, chunks: Iterable[bytes]) -> None:
        """Forget what is left and hand out these from now on."""
        self._chunks = list(chunks)

    def draw(self, size: int, what: str = "") -> bytes:
        """The next chunk; ``InputError`` unless it has ``size`` bytes."""
        if not self._chunks:
            raise InputError(f"random draw {what}".strip(), "another recorded chunk", "none left")
        if len(self._chunks[0]) != size:
            raise InputError(
                f"random draw {what}".strip(), f"{size} bytes", f"a recorded chunk of {len(self._chunks[0])}"
            )
        return self._chunks.pop(0)

    @property
    def left(self) -> int:
        """Chunks that nobody has drawn."""
        return len(self._chunks)


def random_source(seed: bytes | None, label: str) -> RandomSource:
    """The seeded stream of ``label``; the operating system's source if ``seed`` is None."""
    return OsRandom() if seed is None else SeededRandom(seed, label)


# ---------------------------------------------------------------------------------------------- P-384

P384_P = 2**384 - 2**128 - 2**96 + 2**32 - 1
P384_N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
P384_B = 0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF


@lru_cache(maxsize=64)  # with the library's key objects, which make the same test when they are loaded
def _on_curve(x: int, y: int) -> bool:
    return 0 <= x < P384_P and 0 <= y < P384_P and (y * y - (x * x * x - 3 * x + P384_B)) % P384_P == 0


class Point(NamedTuple):
    """A public key on P-384: affine coordinates as integers (not checked: see ``valid``)."""

    x: int
    y: int

    @property
    def valid(self) -> bool:
        """Whether both coordinates are below the field prime and satisfy y^2 = x^3 - 3x + b."""
        return _on_curve(*self)


@dataclass(frozen=True, repr=False)
class PrivateKey:
    """A P-384 private key; its value is in no ``repr``.

    ``d`` is the scalar, ``public`` the point d*G. ``InputError`` for a scalar outside 1 to n-1.

        >>> from sevref import PrivateKey
        >>> PrivateKey(1).public.valid
        True
    """

    d: int
    public: Point = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.d < P384_N:
            raise InputError("P-384 private key", "an integer from 1 to n-1", "one outside (not shown)")
        numbers = ec.derive_private_key(self.d, ec.SECP384R1()).public_key().public_numbers()
        object.__setattr__(self, "public", Point(numbers.x, numbers.y))

    def __repr__(self) -> str:
        return f"PrivateKey(public x={self.public.x:096x})"


PrivateLike = PrivateKey | int | ec.EllipticCurvePrivateKey
PublicLike = Point | tuple[int, int] | ec.EllipticCurvePublicKey


def as_private(key: PrivateLike) -> PrivateKey:
    """A ``PrivateKey`` from a scalar or from the library's key.

    ``InputError`` for a scalar outside 1 to n-1."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        key = key.private_numbers().private_value
    return key if isinstance(key, PrivateKey) else PrivateKey(key)


def as_point(key: PublicLike | object) -> Point:
    """A ``Point`` from coordinates, the library's key, or a certificate (anything with ``public_point``).

    ``InputError`` for anything else. Whether it is a point of the curve is not checked."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        numbers = key.public_numbers()
        return Point(numbers.x, numbers.y)
    if isinstance(key, tuple):
        return Point(*key)
    point = getattr(key, "public_point", None)
    if not isinstance(point, Point):
        raise InputError("public key", "P-384 coordinates, a public key or a certificate", type(key).__name__)
    return point


def draw_private(rng: RandomSource, what: str) -> PrivateKey:
    """A private key as the firmware makes it: 48 bytes little-endian = d; above n-2 they are drawn again.

    ``SevError`` HWERROR_PLATFORM for zero: the crypto engine refuses the point at infinity."""
    while (d := int.from_bytes(rng.draw(48, what), "little")) > P384_N - 2:
        pass
    if d == 0:
        raise SevError(Status.HWERROR_PLATFORM, f"{what}: the candidate key is zero")
    return PrivateKey(d)


@lru_cache(maxsize=64)
def _library_point(point: Point) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicNumbers(point.x, point.y, ec.SECP384R1()).public_key()


def ecdh(private_key: PrivateLike, peer_public: PublicLike | object) -> bytes:
    """Shared secret Z of P-384: X coordinate of d*Q, exactly 48 bytes *big-endian*, leading zero bytes kept.

    ``private_key`` is a ``PrivateKey``, a scalar or the library's key; ``peer_public`` a ``Point``, the library's key
    or a certificate. ``SevError`` INVALID_CERTIFICATE if the peer's point is not on P-384 or a coordinate is not below
    p; ``InputError`` for a scalar outside 1 to n-1. SEV API 55766, "LAUNCH_START".

        >>> from sevref import PrivateKey, ecdh
        >>> owner, platform = PrivateKey(12345), PrivateKey(54321)
        >>> z = ecdh(owner, platform.public)
        >>> len(z), z == ecdh(platform, owner.public)
        (48, True)
    """
    point = as_point(peer_public)
    if not point.valid:
        raise SevError(Status.INVALID_CERTIFICATE, "the peer's public key is not a point of P-384")
    private = ec.derive_private_key(as_private(private_key).d, ec.SECP384R1())
    return private.exchange(ec.ECDH(), _library_point(point))


def rfc6979_nonce(d: int, digest: bytes, hash_name: str) -> Callable[[], int]:
    """Candidates for k by RFC 6979, section 3.2, for P-384; each call of the result gives the next one.

    ``digest`` is the message's hash, ``hash_name`` its function as ``hashlib`` calls it."""
    e = int.from_bytes(digest, "big") >> max(0, 8 * len(digest) - 384)
    seed = d.to_bytes(48, "big") + (e % P384_N).to_bytes(48, "big")
    size = hashlib.new(hash_name).digest_size
    v, key = b"\x01" * size, bytes(size)
    for separator in (b"\x00", b"\x01"):
        key = hmac.digest(key, v + separator + seed, hash_name)
        v = hmac.digest(key, v, hash_name)

    def candidate() -> int:
        nonlocal v, key
        while True:
            t = b""
            while len(t) < 48:
                v = hmac.digest(key, v, hash_name)
                t += v
            k = int.from_bytes(t[:48], "big")
            key = hmac.digest(key, v + b"\x00", hash_name)
            v = hmac.digest(key, v, hash_name)
            if 0 < k < P384_N:
                return k

    return candidate


def drawn_nonce(rng: RandomSource, what: str) -> Callable[[], int]:
    """Candidates for k as Genoa 1.55.25 draws them: 48 bytes little-endian; 0 and above n are drawn again.

    A call of the result raises ``SevError`` HWERROR_PLATFORM for k = n: the engine refuses the point at infinity."""

    def candidate() -> int:
        while not 0 < (k := int.from_bytes(rng.draw(48, what), "little")) <= P384_N:
            pass
        if k == P384_N:
            raise SevError(Status.HWERROR_PLATFORM, f"{what}: the nonce candidate is the group order")
        return k

    return candidate


def ecdsa_sign(
    key: PrivateKey, message: bytes, hash_name: str = "sha256", nonce: Callable[[], int] | None = None
) -> tuple[int, int]:
    """ECDSA on P-384: (r, s) with r = x(kG) mod n, s = (e + r d)/k mod n, e = digest read big-endian.

    ``nonce`` gives candidates for k; without it RFC 6979 with the signature's own hash."""
    digest = hashlib.new(hash_name, message).digest()
    e = int.from_bytes(digest, "big")
    nonce = nonce or rfc6979_nonce(key.d, digest, hash_name)
    while True:
        k = nonce()
        r = PrivateKey(k).public.x % P384_N
        s = (e + r * key.d) * pow(k, -1, P384_N) % P384_N
        if r and s:
            return r, s


_HASHES: dict[str, Hash] = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}


def ecdsa_verify(point: Point, message: bytes, r: int, s: int, hash_name: str = "sha256") -> bool:
    """Whether (r, s) is a signature of ``message`` under ``point``.

    Never if that is no point of P-384, or if r or s is outside 1..n-1."""
    if not (point.valid and 0 < r < P384_N and 0 < s < P384_N):
        return False
    digest = hashlib.new(hash_name, message).digest()
    try:
        _library_point(point).verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(_HASHES[hash_name])))
    except InvalidSignature:
        return False
    return True


# ---------------------------------------------------------------------------------------------- RSA-PSS


class RsaPublic(NamedTuple):
    """RSA public key; modulus and exponent as integers, modulus size in bits as the certificate states it."""

    n: int
    e: int
    bits: int


@dataclass(frozen=True, repr=False)
class RsaPrivate:
    """RSA key pair of a *simulated* signer (test keys); the primes are in no ``repr``."""

    p: int
    q: int
    e: int = 65537

    @property
    def public(self) -> RsaPublic:
        """The public key; ``bits`` is the length of the modulus."""
        n = self.p * self.q
        return RsaPublic(n, self.e, n.bit_length())

    def raw(self, m: int) -> int:
        """The private operation m^d mod n, by the Chinese remainder theorem."""
        dp, dq = pow(self.e, -1, self.p - 1), pow(self.e, -1, self.q - 1)
        mp, mq = pow(m, dp, self.p), pow(m, dq, self.q)
        return mq + self.q * ((mp - mq) * pow(self.q, -1, self.p) % self.p)

    def __repr__(self) -> str:
        return f"RsaPrivate({self.public.bits} bits)"


def _mgf1(seed: bytes, size: int, hash_name: str) -> bytes:
    step = hashlib.new(hash_name).digest_size
    blocks = (hashlib.new(hash_name, seed + i.to_bytes(4, "big")).digest() for i in range(-(-size // step)))
    return b"".join(blocks)[:size]


def rsa_pss_sign(key: RsaPrivate, message: bytes, salt: bytes, hash_name: str) -> int:
    """RSASSA-PSS (RFC 8017, 9.1.1) with a given salt; the signature as an integer.

    ``hash_name`` is "sha256" or "sha384", of the message and of MGF1."""
    bits = key.public.bits - 1
    size, h_size = -(-bits // 8), hashlib.new(hash_name).digest_size
    m_hash = hashlib.new(hash_name, message).digest()
    h = hashlib.new(hash_name, bytes(8) + m_hash + salt).digest()
    db = bytes(size - len(salt) - h_size - 2) + b"\x01" + salt
    mask = int.from_bytes(_mgf1(h, len(db), hash_name), "big")
    masked = (int.from_bytes(db, "big") ^ mask) & (1 << 8 * len(db) - (8 * size - bits)) - 1
    encoded = masked.to_bytes(len(db), "big") + h + b"\xbc"
    return key.raw(int.from_bytes(encoded, "big"))


@lru_cache(maxsize=32)
def _library_rsa(n: int, e: int) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(e, n).public_key()


def rsa_pss_verify(key: RsaPublic, message: bytes, signature: int, hash_name: str, *, any_salt: bool = True) -> bool:
    """Whether ``signature`` (an integer) is RSASSA-PSS with MGF1 of the same hash.

    ``any_salt`` accepts every salt length; otherwise it must be the hash's length. Keys that the library refuses
    (an even exponent, a modulus below its minimum) verify nothing."""
    hash_ = _HASHES[hash_name]
    salt = padding.PSS.AUTO if any_salt else hash_.digest_size
    try:
        public = _library_rsa(key.n, key.e)
        size = (key.n.bit_length() + 7) // 8
        public.verify(signature.to_bytes(size, "big"), message, padding.PSS(padding.MGF1(hash_), salt), hash_)
    except (InvalidSignature, ValueError, OverflowError, UnsupportedAlgorithm):
        return False
    return True
