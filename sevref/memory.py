"""The memory encryption engine: what stands between a processor's caches and DRAM.

Every aligned block of 16 bytes is encrypted by itself: its ciphertext depends on the key, the system physical
address ``p`` and the plaintext, on nothing else. No chaining, no counter, no tag: any 16 bytes decrypt to
something, and a wrong key or a moved block gives noise, never an error. With the tweak T(p) of ``sevref.tweaks``

    XE         c = AES_K(m ^ T(p))               Zen 1, some parts (reverse engineered)
    XEX, XTS   c = AES_K(m ^ T(p)) ^ T(p)        Zen 1, other parts, and later (reverse engineered; XTS by name only)
    plain      c = AES_K(m)                      nothing of AMD's: what the tweak is there to prevent

AMD documents one key per ASID, the C-bit, and that the address enters. Mode and T are known from reverse
engineering only, and what is added here is a *model*: the ``label`` of each ``EnginePreset`` says which is
which.

A range that an engine cannot encrypt (not in whole blocks, beyond the address space, beyond the known
constants) is an ``InputError`` before the first byte is changed. An engine serves one caller at a time; it can
use several threads of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from sevref.crypto import OsRandom, kdf
from sevref.presets import PRESETS, EnginePreset, Mode, variant
from sevref.status import InputError
from sevref.tweaks import (
    BLOCK,
    CHUNK,
    INTERLEAVE,
    SMALL,
    ZEN1,
    KeySlot,
    LinearTweaks,
    Tweaks,
    XtsTweaks,
    seeded_constants,
)

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from typing_extensions import Buffer  # bytes, bytearray, memoryview, numpy array, mmap, ...

__all__ = [
    "BLOCK",
    "CHUNK",
    "PRESETS",
    "SMALL",
    "ZEN1",
    "Engine",
    "EnginePreset",
    "KeySlot",
    "LinearTweaks",
    "Mode",
    "Tweaks",
    "UnknownConstant",
    "XtsTweaks",
    "seeded_constants",
    "variant",
]

STEP = 1 << 24  #: bytes of a bulk operation after which ``progress`` is called

#: called with the bytes done and the bytes in all
Progress: TypeAlias = Callable[[int, int], object]


class UnknownConstant(InputError):
    """An address has upper bits whose tweak constants nobody has published (bits >= 32 under ``ZEN1``)."""


class Engine:
    """The memory encryption engine of one machine between two resets.

    ``boot_seed`` (32 bytes) stands for all that the hardware draws at reset: the HOST key and, in presets that have
    such, the tweak constants; without one it comes from the operating system. ``pa_bits`` is the number of physical
    address bits; bit ``c_bit``, the C-bit, is no part of an address and is dropped. Every ``p`` is a system physical
    address. ``InputError`` for a seed of another size and unless 32 <= ``pa_bits`` <= ``c_bit`` < 64.

        >>> from sevref import Engine
        >>> engine = Engine.preset("xex-boot-random", boot_seed=bytes(32))
        >>> key = engine.new_key(bytes(range(32)))
        >>> ciphertext = engine.encrypt(key, 0x1000, b"sixteen bytes ok")
        >>> engine.decrypt(key, 0x1000, ciphertext), engine.decrypt(key, 0x2000, ciphertext) == b"sixteen bytes ok"
        (b'sixteen bytes ok', False)
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
        self._forks: list[Tweaks] = [self._tweaks]  # a thread's own, by lane
        self._pool: ThreadPoolExecutor | None = None
        host = bytes(32) if preset.zero_host_key else kdf(boot_seed, b"sevref-host-key", bytes(4), 32)
        self._host = KeySlot(host, preset.key_bits)

    @classmethod
    def preset(
        cls,
        name: str | EnginePreset,
        *,
        boot_seed: bytes | None = None,
        pa_bits: int = 46,
        c_bit: int = 51,
        **changes: Any,
    ) -> Engine:
        """The engine of a named preset (``InputError`` names the known ones); ``changes`` as in ``variant``."""
        return cls(variant(name, **changes), boot_seed=boot_seed, pa_bits=pa_bits, c_bit=c_bit)

    def __repr__(self) -> str:
        return f"Engine({self.settings.name}, pa_bits={self.pa_bits}, c_bit={self.c_bit})"

    @property
    def constants(self) -> Mapping[int, bytes]:
        """t_i (16 bytes) by address bit i (XTS has none); unknown to attackers unless ``settings.public_constants``."""
        return self._tweaks.constants

    def tweak(self, p: int, key: KeySlot | None = None) -> bytes:
        """T(p), 16 bytes, of the block that holds the byte at ``p``; only some modes need the ``key``."""
        p = self._address(True, p, 1)
        return self._tweaks.block(key, p - p % BLOCK)

    def new_key(self, seed: bytes) -> KeySlot:
        """What a slot holds after the firmware wrote the 32-byte ``seed`` (a VEK) into it, else ``InputError``."""
        if len(seed) != 32:
            raise InputError("memory key seed", "32 bytes", f"{len(seed)} bytes")
        return KeySlot(bytes(seed), self.settings.key_bits, self.settings.channels)

    def host_key(self) -> KeySlot:
        """The key of host accesses with C-bit. MODEL: KDF(boot seed, "sevref-host-key", 0), 16 or 32 bytes."""
        return self._host

    # -- whole blocks

    def encrypt(self, key: KeySlot | None, p: int, data: Buffer) -> bytes:
        """Ciphertext of whole blocks of plaintext ``data`` at ``p``. Key None bypasses the engine.

        ``p`` and the length are multiples of 16 (with a key), the range is below 2**``pa_bits``: else ``InputError``.
        """
        buffer = bytearray(_view(data))
        self._convert(key, p, memoryview(buffer), True)
        return bytes(buffer)

    def decrypt(self, key: KeySlot | None, p: int, data: Buffer) -> bytes:
        """Plaintext of whole blocks of ciphertext ``data`` at ``p``. Key None bypasses the engine.

        A wrong key or address gives noise, no error. ``InputError`` as in ``encrypt``."""
        buffer = bytearray(_view(data))
        self._convert(key, p, memoryview(buffer), False)
        return bytes(buffer)

    def encrypt_into(
        self, key: KeySlot | None, p: int, buffer: Buffer, *, threads: int = 1, progress: Progress | None = None
    ) -> None:
        """Encrypt ``buffer`` (whole blocks, writable, contiguous) in place as memory at ``p``.

        No copy of the buffer is made. ``threads`` work on neighbouring parts; ``progress`` is called by the caller's
        thread after every 16 MiB with the bytes done and the bytes in all. ``InputError`` as in ``encrypt``, before a
        byte is changed."""
        self._steps(key, p, _writable(buffer), True, threads, progress)

    def decrypt_into(
        self, key: KeySlot | None, p: int, buffer: Buffer, *, threads: int = 1, progress: Progress | None = None
    ) -> None:
        """Decrypt ``buffer`` in place as memory at ``p``; as ``encrypt_into``."""
        self._steps(key, p, _writable(buffer), False, threads, progress)

    # -- bytes, as a processor reads and writes them

    def read(self, key: KeySlot | None, dram: Buffer, p: int, size: int, *, base: int = 0) -> bytes:
        """``size`` bytes at ``p``, at any alignment, as an accessor with ``key`` sees them.

        ``dram`` starts at address ``base``; ``InputError`` for a range outside it."""
        start, before, blocks = self._span(key, _view(dram), p, size, base)
        return self.decrypt(key, start, blocks)[before : before + size]

    def write(self, key: KeySlot | None, dram: Buffer, p: int, data: Buffer, *, base: int = 0) -> None:
        """Write ``data`` at ``p``, at any alignment, with ``key``; ``dram`` starts at address ``base``.

        A block that is only partly covered is decrypted, merged and encrypted *with the accessor's key*: with a wrong
        one, the bytes around become noise for the owner. ``InputError`` for a range outside ``dram``."""
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

    def _steps(
        self, key: KeySlot | None, p: int, view: memoryview, encrypt: bool, threads: int, progress: Progress | None
    ) -> None:
        if threads < 1:
            raise InputError("threads", "at least 1", threads)
        p, size = self._whole_blocks(key, p, len(view)), len(view)
        step = STEP if progress else max(size, 1)
        for start in range(0, size, step):
            stop = min(size, start + step)
            self._parallel(key, p + start, view[start:stop], encrypt, threads)
            if progress:
                progress(stop, size)

    def _parallel(self, key: KeySlot | None, p: int, view: memoryview, encrypt: bool, threads: int) -> None:
        """Split at borders of chunks, one part for each thread; the caller's thread does the first."""
        share = -(-len(view) // (threads * CHUNK)) * CHUNK
        cuts = [0, *range(share - p % CHUNK, len(view), share), len(view)]
        if key is None or len(cuts) <= 2 or threads == 1:
            self._convert(key, p, view, encrypt)
            return
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor()
        while len(self._forks) < len(cuts) - 1:
            self._forks.append(self._tweaks.fork())
        parts = [(p + a, view[a:b], encrypt, lane) for lane, (a, b) in enumerate(pairwise(cuts))]
        others = [self._pool.submit(self._convert, key, *part) for part in parts[1:]]
        self._convert(key, *parts[0])
        for other in others:
            other.result()

    def _whole_blocks(self, key: KeySlot | None, p: int, size: int) -> int:
        p = self._address(key is not None, p, size)
        if key is not None and size and (p % BLOCK or size % BLOCK):
            raise InputError("memory range", "whole blocks of 16 bytes, aligned", f"{size} bytes at {p:#x}")
        return p

    def _convert(self, key: KeySlot | None, p: int, view: memoryview, encrypt: bool, lane: int = 0) -> None:
        size = len(view)
        p = self._whole_blocks(key, p, size)
        if key is None or not size:
            return
        if key.channels > 1:
            for start in range(-(p % INTERLEAVE), size, INTERLEAVE):
                piece = view[max(start, 0) : start + INTERLEAVE]
                self._small(key, p + max(start, 0), piece, encrypt, lane)
        elif size > SMALL:
            # update_into wants 15 bytes of room behind its output: the last block is that room
            self._bulk(key, p, view, encrypt, lane)
            self._small(key, p + size - BLOCK, view[size - BLOCK :], encrypt, lane)
        else:
            self._small(key, p, view, encrypt, lane)

    def _xors(self, encrypt: bool) -> tuple[bool, bool]:
        """Whether the tweak is XORed before and after AES."""
        mode = self.settings.mode
        return (mode.before, mode.after) if encrypt else (mode.after, mode.before)

    def _small(self, key: KeySlot, p: int, view: memoryview, encrypt: bool, lane: int) -> None:
        size, (first, last) = len(view), self._xors(encrypt)
        cipher = key.context(encrypt, p // INTERLEAVE % key.channels if key.channels else 0, lane)
        tweak = self._forks[lane].small(key, p, size)
        value = int.from_bytes(view, "little") ^ tweak if first else int.from_bytes(view, "little")
        result = cipher.update(value.to_bytes(size, "little"))
        view[:] = (int.from_bytes(result, "little") ^ tweak).to_bytes(size, "little") if last else result

    def _bulk(self, key: KeySlot, p: int, view: memoryview, encrypt: bool, lane: int) -> None:
        """All but the last block of ``view``, in place: XOR, ECB, XOR on pieces that stay in the cache."""
        import numpy as np

        words, start, end = np.frombuffer(view, np.uint64), 0, len(view) - BLOCK
        cipher, source, (first, last) = key.context(encrypt, 0, lane), self._forks[lane], self._xors(encrypt)
        while start < end:
            stop = min(end, start + CHUNK - (p + start) % CHUNK)
            piece = words[start // 8 : stop // 8]
            tweaks = source.bulk(key, p + start, stop - start) if first or last else piece
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
