"""Tweaks: how the physical address of a block enters its encryption. Constants as data, with their published origin.

Published (reverse engineered): T is linear over GF(2) on Zen 1, with the constants ``ZEN1``. Reported: on Zen 2 and
later constants of 128 bits, new at every boot. Everything else here is a *model* and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from sevref.crypto import kdf
from sevref.status import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Words: TypeAlias = npt.NDArray[np.uint64]

BLOCK = 16  #: bytes, unit of encryption
LINE = 64  #: bytes, what memory traffic moves in
PAGE = 4096  #: bytes
CHUNK = 1 << 19  #: bytes of a bulk step: its data and its tweaks stay in the second-level cache
SMALL = 512  #: bytes up to which Python's integers beat numpy's overhead
INTERLEAVE = 256  #: MODEL: bytes after which the next memory channel follows


# -------------------------------------------------------------------------------------- keys


def channel_key(seed: bytes, channel: int) -> bytes:
    """The 32-byte key that AMD's published Genoa firmware gives memory channel ``channel`` (single source).

    KDF(VEK seed, "sev-vm-encryption-key-0" with its terminating zero byte, channel as u32 little-endian, 256 bits);
    ``channel`` is die x channels per die + channel of the die."""
    return kdf(seed, b"sev-vm-encryption-key-0\0", channel.to_bytes(4, "little"), 32)


def cxl_key(seed: bytes, dies: int) -> bytes:
    """The 32-byte key of all CXL ports of a socket with ``dies`` dies (Genoa firmware, single source)."""
    return kdf(seed, b"sev-vm-encryption-key-1\0", (4 * dies).to_bytes(4, "little"), 32)


@dataclass(frozen=True, repr=False, eq=False)
class KeySlot:
    """A key of the memory controller: the 32-byte seed that was written into a slot, and its AES contexts.

    Nothing reads a slot back; the seed is in no ``repr``. Creating a context costs many times the encryption
    of a page, so each is made at first use and kept: one per direction, channel and thread (``lane``).
    """

    seed: bytes
    key_bits: int
    channels: int = 0  #: memory channels with a key of their own; 0: the seed's first bytes are the key (MODEL)
    _contexts: dict[Any, CipherContext] = field(default_factory=dict, init=False)

    def context(self, encrypt: bool, channel: int = 0, lane: int = 0) -> CipherContext:
        """AES-ECB with the key of ``channel``. A context serves one thread at a time: its lane."""
        found = self._contexts.get((encrypt, channel, lane))
        if found is None:
            key = channel_key(self.seed, channel) if self.channels else self.seed
            cipher = Cipher(algorithms.AES(key[: self.key_bits // 8]), modes.ECB())
            found = self._contexts[encrypt, channel, lane] = cipher.encryptor() if encrypt else cipher.decryptor()
        return found

    def __repr__(self) -> str:
        return f"KeySlot(AES-{self.key_bits})"


# -------------------------------------------------------------------------------------- tweak constants

#: Constants t_4 ... t_31 of Zen 1, each a pattern of 4 bytes (memory order) that repeats four times. Origin:
#: the artefact of Wilke et al., "SEVurity", 2020, measured on EPYC 7251, 7401P and Embedded 3151. Bits 3..0
#: choose a byte inside the block and have no constant; constants for bits >= 32 were never published.
ZEN1: tuple[bytes, ...] = tuple(
    4 * pattern.to_bytes(4, "big")
    for pattern in (
        *(0x82253838, 0xEC09079C, 0x40000018, 0x8102A23A, 0x77D91077, 0xB010B2C0, 0x536D544D),  # bits 4-10
        *(0x1568EE53, 0xB09230C2, 0x9670FF8E, 0x361B90D5, 0x0400C236, 0xE8182985, 0xBD31F92A),  # bits 11-17
        *(0xA50D3744, 0xF431D84C, 0x02043181, 0xB37132A1, 0x508AC06C, 0x168A8020, 0x7F9BC007),  # bits 18-24
        *(0x00DB0407, 0x7F000404, 0x70FA01BE, 0xBB3D2890, 0xBD2DD526, 0x1C5D6CE2, 0x4F5CE727),  # bits 25-31
    )
)


def seeded_constants(boot_seed: bytes, pa_bits: int, period: int = 16) -> tuple[bytes, ...]:
    """MODEL: constants for address bits 4 to ``pa_bits`` - 1, new with every boot seed.

    t_i = KDF(boot_seed, "sevref-tweak-constant", i as u32 little-endian), ``period`` bytes repeated to 16.
    Period 16 is what researchers report of Zen 2 and later; 4 has the entropy of Zen 1; 2 is a toy to attack.
    """
    if period not in (2, 4, 16):
        raise InputError("period of the tweak constants", "2, 4 or 16 bytes", period)
    return tuple(
        16 // period * kdf(boot_seed, b"sevref-tweak-constant", bit.to_bytes(4, "little"), period)
        for bit in range(4, pa_bits)
    )


# -------------------------------------------------------------------------------------- tweaks


class Tweaks:
    """Where tweaks come from. A subclass gives ``block``, and may have faster ways for the others.

    The key is passed along because a mode may need it. Addresses and sizes are multiples of 16.
    """

    bits = 64  #: addresses of this many bits have a tweak
    constants: Mapping[int, bytes] = MappingProxyType({})  #: t_i by address bit, where there is such a thing

    def fork(self) -> Tweaks:
        """The same tweaks for another thread."""
        return self

    def block(self, key: KeySlot | None, p: int) -> bytes:
        """T(p): 16 bytes that are XORed to the block at ``p``. ``key`` is None when a walkthrough asks."""
        raise NotImplementedError

    def small(self, key: KeySlot, p: int, size: int) -> int:
        """The tweaks of ``size`` <= SMALL bytes at ``p``, as one little-endian integer."""
        return int.from_bytes(b"".join(self.block(key, p + i) for i in range(0, size, BLOCK)), "little")

    def bulk(self, key: KeySlot, p: int, size: int) -> Words:
        """The tweaks of ``size`` bytes at ``p``, inside one aligned CHUNK; valid until the next call."""
        import numpy as np

        return np.frombuffer(b"".join(self.block(key, p + i) for i in range(0, size, BLOCK)), np.uint64)


class LinearTweaks(Tweaks):
    """T(p) = XOR of the constants of all set address bits. ``table[0]`` belongs to bit 4."""

    def __init__(self, table: tuple[bytes, ...]) -> None:
        self.bits = 4 + len(table)
        self.constants = MappingProxyType({4 + i: constant for i, constant in enumerate(table)})
        self._table = [int.from_bytes(constant, "little") for constant in table]
        self._upper = lru_cache(maxsize=1024)(self._sum)  # of pages
        self._base = -1

    def fork(self) -> LinearTweaks:
        """As ``Tweaks.fork``."""
        return LinearTweaks(tuple(self.constants.values()))

    def _sum(self, p: int) -> int:
        total, bits = 0, p >> 4
        for constant in self._table:
            if bits & 1:
                total ^= constant
            bits >>= 1
        return total

    @cached_property
    def _first(self) -> bytes:
        return b"".join(self._sum(p).to_bytes(BLOCK, "little") for p in range(0, PAGE, BLOCK))

    def block(self, key: KeySlot | None, p: int) -> bytes:
        """As ``Tweaks.block``."""
        return self._sum(p).to_bytes(BLOCK, "little")

    def small(self, key: KeySlot, p: int, size: int) -> int:
        """As ``Tweaks.small``."""
        offset = p % PAGE
        fits = min(size, PAGE - offset)
        # T(page + offset) = T(page) ^ T(offset): one constant, repeated, XORed to tweaks of the first page
        tweaks = self._upper(p - offset) * ((1 << 8 * fits) // ((1 << 8 * BLOCK) - 1))
        tweaks ^= int.from_bytes(self._first[offset : offset + fits], "little")
        return tweaks if fits == size else tweaks | self.small(key, p + fits, size - fits) << 8 * fits

    def bulk(self, key: KeySlot, p: int, size: int) -> Words:
        """As ``Tweaks.bulk``."""
        import numpy as np

        offset = p % CHUNK
        base = p - offset
        if self._base < 0:
            # Both start on a page: at other distances (modulo 4096) the processor can mistake loads of the one for
            # loads of what it has just stored to the other, and the move below takes eight times as long.
            room = np.empty(CHUNK + 2 * PAGE, np.uint8)
            start = -room.ctypes.data % PAGE
            rows = room[start : start + CHUNK + PAGE].view(np.uint64).reshape(-1, PAGE // 8)
            self._chunk, self._constant = rows[:-1], rows[-1]
            for page, row in enumerate(self._chunk):
                np.bitwise_xor(np.frombuffer(self._first, np.uint64), self._repeat(page * PAGE, PAGE), row)
            self._base = 0
        if size > CHUNK // 2 and self._base != base:
            # Move the chunk of tweaks that is there: T(base + offset) = T(old + offset) ^ T(old ^ base).
            # (A cache of many chunks is no faster.) An interrupt leaves -1 and makes the next call start over.
            self._constant[:] = self._repeat(self._base ^ base, PAGE)
            self._base = -1
            np.bitwise_xor(self._chunk, self._constant, self._chunk)
            self._base = base
        words = self._chunk.reshape(-1)[offset // 8 : (offset + size) // 8]
        return words if self._base == base else words ^ self._repeat(self._base ^ base, size)

    def _repeat(self, p: int, size: int) -> Words:
        import numpy as np

        return np.frombuffer(self._upper(p).to_bytes(BLOCK, "little") * (size // BLOCK), np.uint64)


class SeedTweaks(Tweaks):
    """T(p) = AES-128 of p (u64 little-endian, then 8 zero bytes) under bytes 16-31 of the key's own seed."""

    bits = 46

    def block(self, key: KeySlot | None, p: int) -> bytes:
        """As ``Tweaks.block``."""
        return self._encrypt(key, p, BLOCK)

    def small(self, key: KeySlot, p: int, size: int) -> int:
        """As ``Tweaks.small``."""
        return int.from_bytes(self._encrypt(key, p, size), "little")

    def bulk(self, key: KeySlot, p: int, size: int) -> Words:
        """As ``Tweaks.bulk``."""
        import numpy as np

        return np.frombuffer(self._encrypt(key, p, size), np.uint64)

    @staticmethod
    def _encrypt(key: KeySlot | None, p: int, size: int) -> bytes:
        seed = bytes(32) if key is None else key.seed
        cipher = Cipher(algorithms.AES(seed[16:]), modes.ECB()).encryptor()
        return cipher.update(b"".join(q.to_bytes(16, "little") for q in range(p, p + size, BLOCK)))


class NoTweaks(Tweaks):
    """T(p) = 0: what AES alone would do. Nothing of AMD's; to see what the tweak is good for."""

    def block(self, key: KeySlot | None, p: int) -> bytes:
        """As ``Tweaks.block``: zeros."""
        return bytes(BLOCK)


class XtsTweaks(Tweaks):
    """MODEL of the mode of which AMD publishes the name only: IEEE 1619 XTS with data units of ``unit`` bytes.

    T of block j of a unit = AES-256_K2(number of the unit, 16 bytes little-endian) times alpha to the j, with the
    reduction byte 0x87. K2 = KDF(boot_seed, "sevref-xts-tweak-key", 0, 256 bits), the same for all keys. Not linear:
    there are no constants.
    """

    bits = 64

    def __init__(self, boot_seed: bytes, unit: int = LINE) -> None:
        if unit not in (LINE, PAGE):
            raise InputError("XTS data unit", "64 or 4096 bytes", unit)
        self.unit = unit
        self._boot_seed = boot_seed
        self._k2 = kdf(boot_seed, b"sevref-xts-tweak-key", bytes(4), 32)
        self._ecb = Cipher(algorithms.AES(self._k2), modes.ECB()).encryptor()

    def fork(self) -> XtsTweaks:
        """As ``Tweaks.fork``."""
        return XtsTweaks(self._boot_seed, self.unit)

    def _unit(self, number: int, count: int) -> int:
        """Tweaks of the first ``count`` blocks of a unit, as one little-endian integer."""
        value = int.from_bytes(self._ecb.update(number.to_bytes(BLOCK, "little")), "little")
        total = 0
        for j in range(count):
            total |= value << 128 * j
            value = (value << 1) ^ (0x87 | 1 << 128 if value >> 127 else 0)
        return total

    def block(self, key: KeySlot | None, p: int) -> bytes:
        """As ``Tweaks.block``."""
        j = p % self.unit // BLOCK
        return (self._unit(p // self.unit, j + 1) >> 128 * j).to_bytes(BLOCK, "little")

    def small(self, key: KeySlot, p: int, size: int) -> int:
        """As ``Tweaks.small``."""
        total = done = 0
        while done < size:
            before = (p + done) % self.unit
            part = min(size - done, self.unit - before)
            unit = self._unit((p + done) // self.unit, (before + part) // BLOCK) >> 8 * before
            total |= unit << 8 * done
            done += part
        return total

    def bulk(self, key: KeySlot, p: int, size: int) -> Words:
        """As ``Tweaks.bulk``."""
        import numpy as np

        first, last = p // self.unit, (p + size - 1) // self.unit
        numbers = np.zeros((last - first + 1, 2), np.uint64)
        numbers[:, 0] = np.arange(first, last + 1, dtype=np.uint64)
        start = np.frombuffer(self._ecb.update(numbers.data.cast("B")), np.uint64).reshape(-1, 2)
        low, high = start[:, 0].copy(), start[:, 1].copy()
        tweaks = np.empty((len(numbers), self.unit // BLOCK, 2), np.uint64)
        one, top = np.uint64(1), np.uint64(63)
        for j in range(self.unit // BLOCK):
            tweaks[:, j, 0], tweaks[:, j, 1] = low, high
            carry = high >> top
            high = high << one | low >> top
            low = low << one ^ carry * np.uint64(0x87)
        offset = p - first * self.unit
        return tweaks.reshape(-1)[offset // 8 : (offset + size) // 8]
