"""The memory encryption engine: what stands between a processor's caches and DRAM.

Every aligned block of 16 bytes is encrypted by itself: its ciphertext depends on the key, the system physical
address ``p`` and the plaintext, on nothing else. No chaining, no counter, no tag: any 16 bytes decrypt to
something, and a wrong key or a moved block gives noise, never an error. In mode XEX

    c = AES_K(m ^ T(p)) ^ T(p)        T(p) = XOR of one 16-byte constant t_i for each set bit i of p

AMD documents one key per ASID, the C-bit, and that the address enters. Mode and T are known from reverse
engineering only, and what is added here is a *model*: the ``label`` of each ``EnginePreset`` says which is
which.

A range that an engine cannot encrypt (not in whole blocks, beyond the address space, beyond the known
constants) is an ``InputError`` before the first byte is changed. Engines are not safe for several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from sevref.crypto import OsRandom, kdf
from sevref.status import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Buffer  # bytes, bytearray, memoryview, numpy array, mmap, ...

    Words: TypeAlias = npt.NDArray[np.uint64]

BLOCK = 16  #: bytes, unit of encryption
PAGE = 4096  #: bytes
CHUNK = 1 << 19  #: bytes of a bulk step: its data and its tweaks stay in the second-level cache
SMALL = 512  #: bytes up to which Python's integers beat numpy's overhead


class UnknownConstant(InputError):
    """An address has upper bits whose tweak constants nobody has published (bits >= 32 under ``ZEN1``)."""


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
        return self._sum(p).to_bytes(BLOCK, "little")

    def small(self, key: KeySlot, p: int, size: int) -> int:
        offset = p % PAGE
        fits = min(size, PAGE - offset)
        # T(page + offset) = T(page) ^ T(offset): one constant, repeated, XORed to tweaks of the first page
        tweaks = self._upper(p - offset) * ((1 << 8 * fits) // ((1 << 8 * BLOCK) - 1))
        tweaks ^= int.from_bytes(self._first[offset : offset + fits], "little")
        return tweaks if fits == size else tweaks | self.small(key, p + fits, size - fits) << 8 * fits

    def bulk(self, key: KeySlot, p: int, size: int) -> Words:
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
        return self._encrypt(key, p, BLOCK)

    def small(self, key: KeySlot, p: int, size: int) -> int:
        return int.from_bytes(self._encrypt(key, p, size), "little")

    def bulk(self, key: KeySlot, p: int, size: int) -> Words:
        import numpy as np

        return np.frombuffer(self._encrypt(key, p, size), np.uint64)

    @staticmethod
    def _encrypt(key: KeySlot | None, p: int, size: int) -> bytes:
        seed = bytes(32) if key is None else key.seed
        cipher = Cipher(algorithms.AES(seed[16:]), modes.ECB()).encryptor()
        return cipher.update(b"".join(q.to_bytes(16, "little") for q in range(p, p + size, BLOCK)))


# -------------------------------------------------------------------------------------- presets


@dataclass(frozen=True)
class Mode:
    """Which side of AES the tweak is XORed to when encrypting."""

    name: str
    before: bool
    after: bool


XEX = Mode("xex", before=True, after=True)


@dataclass(frozen=True)
class EnginePreset:
    """One kind of engine, as data. ``label``: what is published or reverse engineered, and what is model."""

    name: str
    mode: Mode
    key_bits: int  #: of the AES key: the first bytes of the guest's 32-byte VEK seed (MODEL: "direct")
    tweaks: Callable[[bytes, int], Tweaks]  #: from boot seed and number of physical address bits
    public_constants: bool  #: whether an attacker knows the constants
    stands_for: str
    label: str
    zero_host_key: bool = False  #: the HOST key is 32 zero bytes instead of derived from the boot seed


PRESETS: dict[str, EnginePreset] = {
    preset.name: preset
    for preset in (
        EnginePreset(
            name="xex-zen1",
            mode=XEX,
            key_bits=128,
            tweaks=lambda boot_seed, pa_bits: LinearTweaks(ZEN1),
            public_constants=True,
            stands_for="EPYC 7401P (Naples), EPYC Embedded 3151",
            label="mode and constants reverse engineered (Wilke et al. 2020); VEK used directly: model",
        ),
        EnginePreset(
            name="xex-boot-random",
            mode=XEX,
            key_bits=128,
            tweaks=lambda boot_seed, pa_bits: LinearTweaks(seeded_constants(boot_seed, pa_bits)),
            public_constants=False,
            stands_for="Zen 2 and Zen 3 (Rome, Milan)",
            label="mode reverse engineered; size and freshness of the constants reported by researchers, "
            "partly on AMD's word; linearity of T assumed; their values, and VEK used directly: model",
        ),
        EnginePreset(
            name="recorded-traces",
            mode=XEX,
            key_bits=128,
            tweaks=lambda boot_seed, pa_bits: SeedTweaks(),
            public_constants=False,
            stands_for="the stand-in machine under the recorded traces",
            label="the recording's own engine, nothing of AMD's",
            zero_host_key=True,
        ),
    )
}


# -------------------------------------------------------------------------------------- engine


@dataclass(frozen=True, repr=False, eq=False)
class KeySlot:
    """A key of the memory controller: the 32-byte seed that was written into a slot, and its AES contexts.

    Nothing reads a slot back; the seed is in no ``repr``. Creating a context costs many times the encryption
    of a page, so both are made at first use and kept.
    """

    seed: bytes
    key_bits: int

    @cached_property
    def _cipher(self) -> Cipher[modes.ECB]:
        return Cipher(algorithms.AES(self.seed[: self.key_bits // 8]), modes.ECB())

    @cached_property
    def encryptor(self) -> CipherContext:
        return self._cipher.encryptor()

    @cached_property
    def decryptor(self) -> CipherContext:
        return self._cipher.decryptor()

    def __repr__(self) -> str:
        return f"KeySlot(AES-{self.key_bits})"


class Engine:
    """The engine of one machine between two resets.

    ``boot_seed`` (32 bytes) stands for all that the hardware draws at reset: the HOST key and, in presets
    that have such, the tweak constants; without one it comes from the operating system. ``pa_bits`` is the
    number of physical address bits; bit ``c_bit``, the C-bit, is no part of an address and is dropped.
    """

    def __init__(
        self, preset: EnginePreset, *, boot_seed: bytes | None = None, pa_bits: int = 46, c_bit: int = 51
    ) -> None:
        boot_seed = OsRandom().draw(32) if boot_seed is None else bytes(boot_seed)
        if len(boot_seed) != 32:
            raise InputError("boot seed", "32 bytes", f"{len(boot_seed)} bytes")
        if not 32 <= pa_bits <= c_bit < 64:
            raise InputError("pa_bits, c_bit", "32 <= pa_bits <= c_bit < 64", f"{pa_bits}, {c_bit}")
        self.settings, self.pa_bits, self.c_bit = preset, pa_bits, c_bit
        self._tweaks = preset.tweaks(boot_seed, pa_bits)
        host = bytes(32) if preset.zero_host_key else kdf(boot_seed, b"sevref-host-key", bytes(4), 32)
        self._host = self.new_key(host)

    @classmethod
    def preset(cls, name: str, *, boot_seed: bytes | None = None, pa_bits: int = 46, c_bit: int = 51) -> Engine:
        """The engine of a named preset; ``InputError`` names the known ones."""
        if name not in PRESETS:
            raise InputError("engine preset", "one of " + ", ".join(PRESETS), name)
        return cls(PRESETS[name], boot_seed=boot_seed, pa_bits=pa_bits, c_bit=c_bit)

    def __repr__(self) -> str:
        return f"Engine({self.settings.name}, pa_bits={self.pa_bits}, c_bit={self.c_bit})"

    @property
    def constants(self) -> Mapping[int, bytes]:
        """t_i (16 bytes) by address bit i; unknown to attackers unless ``settings.public_constants``."""
        return self._tweaks.constants

    def tweak(self, p: int, key: KeySlot | None = None) -> bytes:
        """T(p), 16 bytes, of the block that holds the byte at ``p``; only some modes need the ``key``."""
        p = self._address(True, p, 1)
        return self._tweaks.block(key, p - p % BLOCK)

    def new_key(self, seed: bytes) -> KeySlot:
        """What a slot holds after the firmware wrote a 32-byte seed (a guest's VEK) into it."""
        if len(seed) != 32:
            raise InputError("memory key seed", "32 bytes", f"{len(seed)} bytes")
        return KeySlot(bytes(seed), self.settings.key_bits)

    def host_key(self) -> KeySlot:
        """The key of host accesses with C-bit. MODEL: KDF(boot seed, "sevref-host-key", 0), 32 bytes."""
        return self._host

    # -- whole blocks

    def encrypt(self, key: KeySlot | None, p: int, data: Buffer) -> bytes:
        """Ciphertext of whole blocks of plaintext ``data`` at ``p``. Key None bypasses the engine."""
        buffer = bytearray(_view(data))
        self._convert(key, p, memoryview(buffer), True)
        return bytes(buffer)

    def decrypt(self, key: KeySlot | None, p: int, data: Buffer) -> bytes:
        """Plaintext of whole blocks of ciphertext ``data`` at ``p``. Key None bypasses the engine."""
        buffer = bytearray(_view(data))
        self._convert(key, p, memoryview(buffer), False)
        return bytes(buffer)

    def encrypt_into(self, key: KeySlot | None, p: int, buffer: Buffer) -> None:
        """Encrypt ``buffer`` (whole blocks, writable, contiguous) in place as memory at ``p``."""
        self._convert(key, p, _writable(buffer), True)

    def decrypt_into(self, key: KeySlot | None, p: int, buffer: Buffer) -> None:
        """Decrypt ``buffer`` (whole blocks, writable, contiguous) in place as memory at ``p``."""
        self._convert(key, p, _writable(buffer), False)

    # -- bytes, as a processor reads and writes them

    def read(self, key: KeySlot | None, dram: Buffer, p: int, size: int, *, base: int = 0) -> bytes:
        """``size`` bytes at ``p`` as an accessor with ``key`` sees them; ``dram`` starts at address ``base``."""
        start, before, blocks = self._span(key, _view(dram), p, size, base)
        return self.decrypt(key, start, blocks)[before : before + size]

    def write(self, key: KeySlot | None, dram: Buffer, p: int, data: Buffer, *, base: int = 0) -> None:
        """Write ``data`` at ``p`` with ``key``. A block that is only partly covered is decrypted, merged and
        encrypted *with the accessor's key*: with a wrong one, the bytes around become noise for the owner."""
        source = _view(data)
        start, before, blocks = self._span(key, _writable(dram), p, len(source), base)
        stop, end = before + len(source), len(blocks)
        head = self.decrypt(key, start, blocks[:BLOCK])[:before] if before else b""
        tail = self.decrypt(key, start + end - BLOCK, blocks[end - BLOCK :])[stop - end :] if stop < end else b""
        blocks[before:stop] = source
        blocks[:before], blocks[stop:] = head, tail
        self._convert(key, start, blocks, True)

    def _span(self, key: KeySlot | None, dram: memoryview, p: int, size: int, base: int) -> tuple[int, int, memoryview]:
        """What ``size`` bytes at ``p`` touch: address of the first block, bytes of it before ``p``, the blocks."""
        p = self._address(key is not None, p, size)
        before, behind = (p % BLOCK, -(p + size) % BLOCK) if key is not None and size else (0, 0)
        offset, end = p - before - base, p + size + behind - base
        if offset < 0 or end > len(dram):
            wanted = f"a range inside DRAM, {base:#x} to {base + len(dram):#x}"
            raise InputError("address", wanted, f"{size} bytes at {p:#x}")
        return p - before, before, dram[offset:end]

    # -- the one path

    def _address(self, tweaked: bool, p: int, size: int) -> int:
        p &= ~(1 << self.c_bit)
        if p < 0 or size < 0 or p + size > 1 << self.pa_bits:
            raise InputError("address", f"a range below 2**{self.pa_bits}", f"{size} bytes at {p:#x}")
        if tweaked and p + size > 1 << self._tweaks.bits:
            known = f"a range below 2**{self._tweaks.bits} (the constants of higher bits are unknown)"
            raise UnknownConstant("address", known, f"{size} bytes at {p:#x}")
        return p

    def _convert(self, key: KeySlot | None, p: int, view: memoryview, encrypt: bool) -> None:
        size = len(view)
        p = self._address(key is not None, p, size)
        if key is None or not size:
            return
        if p % BLOCK or size % BLOCK:
            raise InputError("memory range", "whole blocks of 16 bytes, aligned", f"{size} bytes at {p:#x}")
        mode = self.settings.mode
        first, last = (mode.before, mode.after) if encrypt else (mode.after, mode.before)
        cipher = key.encryptor if encrypt else key.decryptor
        if size > SMALL:
            # update_into wants 15 bytes of room behind its output: the last block is that room
            self._bulk(key, p, view, first, last, cipher)
            p, view, size = p + size - BLOCK, view[size - BLOCK :], BLOCK
        tweak = self._tweaks.small(key, p, size)
        value = int.from_bytes(view, "little") ^ tweak if first else int.from_bytes(view, "little")
        result = cipher.update(value.to_bytes(size, "little"))
        view[:] = (int.from_bytes(result, "little") ^ tweak).to_bytes(size, "little") if last else result

    def _bulk(self, key: KeySlot, p: int, view: memoryview, first: bool, last: bool, cipher: CipherContext) -> None:
        """All but the last block of ``view``, in place: XOR, ECB, XOR on pieces that stay in the cache."""
        import numpy as np

        words, start, end = np.frombuffer(view, np.uint64), 0, len(view) - BLOCK
        while start < end:
            stop = min(end, start + CHUNK - (p + start) % CHUNK)
            piece = words[start // 8 : stop // 8]
            tweaks = self._tweaks.bulk(key, p + start, stop - start)
            if first:
                np.bitwise_xor(piece, tweaks, piece)
            cipher.update_into(view[start:stop], view[start : stop + BLOCK - 1])
            if last:
                np.bitwise_xor(piece, tweaks, piece)
            start = stop


def _view(buffer: Buffer) -> memoryview:
    try:
        return memoryview(buffer).cast("B")
    except TypeError as error:
        raise InputError("memory buffer", "contiguous bytes", str(error)) from None


def _writable(buffer: Buffer) -> memoryview:
    view = _view(buffer)
    if view.readonly:
        raise InputError("memory buffer", "a writable buffer", "a read-only one")
    return view
