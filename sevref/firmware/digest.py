"""The running launch digest: SHA-256, and what Genoa 1.55.25 leaves of it after a failed LAUNCH_MEASURE.

Under the switch ``failed_measure_finalises`` a LAUNCH_MEASURE whose output address is bad has finalised the hash in
place and goes on from what that left. No hash library offers that state, so the compression function stands here for
that case alone; every other digest is the library's.
"""

from __future__ import annotations

import hashlib
from math import isqrt

_PRIMES = [n for n in range(2, 312) if all(n % d for d in range(2, isqrt(n) + 1))]


def _fraction_bits(value: int, root: int) -> int:
    """First 32 bits of the fractional part of the square or cube root of ``value``."""
    scaled = value << 32 * root
    low, high = 0, 1 << 40
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**root <= scaled else (low, middle)
    return low & 0xFFFFFFFF


_K = [_fraction_bits(prime, 3) for prime in _PRIMES[:64]]
_MASK = 0xFFFFFFFF


def _rotate(x: int, n: int) -> int:
    return (x >> n | x << 32 - n) & _MASK


def _compress(state: list[int], block: bytes) -> list[int]:
    """FIPS 180-4, 6.2.2."""
    w = [int.from_bytes(block[i : i + 4], "big") for i in range(0, 64, 4)]
    for t in range(16, 64):
        s0 = _rotate(w[t - 15], 7) ^ _rotate(w[t - 15], 18) ^ w[t - 15] >> 3
        s1 = _rotate(w[t - 2], 17) ^ _rotate(w[t - 2], 19) ^ w[t - 2] >> 10
        w.append((w[t - 16] + s0 + w[t - 7] + s1) & _MASK)
    a, b, c, d, e, f, g, h = state
    for t in range(64):
        t1 = h + (_rotate(e, 6) ^ _rotate(e, 11) ^ _rotate(e, 25)) + (e & f ^ ~e & g) + _K[t] + w[t]
        t2 = (_rotate(a, 2) ^ _rotate(a, 13) ^ _rotate(a, 22)) + (a & b ^ a & c ^ b & c)
        a, b, c, d, e, f, g, h = (t1 + t2) & _MASK, a, b, c, (d + t1) & _MASK, e, f, g
    return [(x + y) & _MASK for x, y in zip(state, (a, b, c, d, e, f, g, h), strict=True)]


class LaunchDigest:
    """SHA-256 over everything that LAUNCH_UPDATE_* loaded, in the order of the calls."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._tail = b""  # bytes since the last 64-byte boundary
        self._count = 0
        self._words: list[int] | None = None  # state after a finalisation in place

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add plaintext."""
        self._count += len(data)
        if self._words is None:
            self._hash.update(data)
            keep = (len(self._tail) + len(data)) % 64
            self._tail = (self._tail + bytes(data[-64:]))[-keep:] if keep else b""
            return
        self._tail += bytes(data)
        while len(self._tail) >= 64:
            self._words = _compress(self._words, self._tail[:64])
            self._tail = self._tail[64:]

    def digest(self) -> bytes:
        """The 32 bytes, without disturbing the running state."""
        if self._words is None:
            return self._hash.digest()
        padded = self._tail + b"\x80"
        padded += bytes(-(len(padded) + 8) % 64) + (8 * self._count & (1 << 64) - 1).to_bytes(8, "big")
        words = self._words
        for i in range(0, len(padded), 64):
            words = _compress(words, padded[i : i + 64])
        return b"".join(word.to_bytes(4, "big") for word in words)

    def finalise_in_place(self) -> None:
        """What a failed LAUNCH_MEASURE leaves under ``failed_measure_finalises``.

        The digest's bytes read as little-endian words become the state, the count is multiplied by eight, the tail
        stays.
        """
        digest = self.digest()
        self._words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 32, 4)]
        self._count = 8 * self._count & (1 << 64) - 1
